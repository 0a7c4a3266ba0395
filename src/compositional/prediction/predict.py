"""Predict a whole split into a file, batch by batch, from where an interrupted run stopped."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any, Protocol

from compositional.core.errors import UserError, first_line
from compositional.core.files import read_json_lines, write_text
from compositional.core.resumable import chunks, complete_rows, line_of
from compositional.data import Example
from compositional.models.chat import ChatEncoder, Prompt
from compositional.prediction import Answer, Prediction, PredictionSettings


class Generator(Protocol):
    """What a backend offers."""

    def answers(self, prompts: list[list[int]]) -> list[Answer]:
        """One answer per prompt (token ids), in their order."""
        ...


def predict_split(
    path: Path,
    examples: list[Example],
    instruction: str,
    encoder: ChatEncoder,
    settings: PredictionSettings,
    make_generator: Callable[[], Generator],
    description: str,
) -> list[Prediction]:
    """Predictions for all examples, in their order, and in the file `path` once all are made.

    The longest prompts come first, and batches are the same in every run: a batch's padding shows in a result's last digits. The
    generator is made only if there is something left to do.
    """
    if path.is_file():
        return read_predictions(path)
    prompts = {example.id: encoder.prompt(instruction, example.input, settings.max_prompt_length) for example in examples}
    by_id = {example.id: example for example in examples}
    ids = list(by_id)
    batches = chunks(sorted(ids, key=lambda id: -len(prompts[id].ids)), settings.batch_size)

    def unfinished(done: set[str]) -> list[list[str]]:
        return [batch for batch in batches if not done.issuperset(batch)]

    generator = cache(make_generator)

    def predict(batch: list[str]) -> list[dict[str, Any]]:
        answers = generator().answers([prompts[id].ids for id in batch])
        made = [_prediction(by_id[id], prompts[id], answer) for id, answer in zip(batch, answers, strict=True)]
        return [asdict(prediction) for prediction in made]

    return [Prediction(**row) for row in complete_rows(path, ids, unfinished, generator, predict, description)]


def join_steps(path: Path, examples: list[Example], steps: list[list[Prediction]]) -> list[Prediction]:
    """Predictions of several steps as one file: the example's input, the last output, and the one before as `intermediate`."""
    joined = [
        replace(
            made[-1],
            input=example.input,
            intermediate=made[-2].output,
            prompt_truncated=any(one.prompt_truncated for one in made),
            output_cut_off=any(one.output_cut_off for one in made),
        )
        for example, *made in zip(examples, *steps, strict=True)
    ]
    write_text(path, "".join(line_of(asdict(prediction)) for prediction in joined))
    return joined


def read_predictions(path: Path) -> list[Prediction]:
    """The predictions in a file; raises UserError with file and line for a line that is none."""
    predictions = []
    for number, row in read_json_lines(path):
        try:
            predictions.append(Prediction(**row))
        except TypeError as error:
            raise UserError(f"{path}, line {number}: not a prediction ({first_line(error)}); make the file again") from error
    return predictions


def _prediction(example: Example, prompt: Prompt, answer: Answer) -> Prediction:
    return Prediction(example.id, example.input, example.reference, answer.text, prompt.truncated, answer.cut_off)
