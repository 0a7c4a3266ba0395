"""Predict a split into a file, batch by batch; resumes where an interrupted run stopped."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any, Protocol

from compositional.core.errors import UserError, first_line
from compositional.core.files import read_json_lines, write_text
from compositional.core.recorded import has_changed, is_unchanged, read_recorded
from compositional.core.resumable import chunks, complete_rows, line_of
from compositional.data import Example
from compositional.models.chat import ChatEncoder, Prompt
from compositional.prediction import Answer, Prediction, PredictionSettings

SETTINGS_FILE = "settings.json"  # beside the predictions; under HASHES it has the SHA-256 of each finished file, by name
HASHES = "hashes_of_files"


class Generator(Protocol):
    """The interface of a backend. `made_with` is what it knows of its engine beyond its settings, for the record."""

    made_with: Mapping[str, Any]

    def answers(self, prompts: list[list[int]]) -> list[Answer]:
        """One answer per prompt (token ids), in their order."""
        ...


class StreamingGenerator(Generator, Protocol):
    """A backend that also answers token by token."""

    def stream(self, prompt: list[int]) -> Iterator[Answer]:
        """The answer to one prompt (token ids) so far, after each token; closing the iterator ends the work."""
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
    """Return predictions for all examples, in their order; write them to `path` once they are complete.

    Examples with one prompt, such as a dialogue with three summaries, share one answer. The longest prompts come first. Batches
    are the same in every run, since padding affects the last digits of results. The generator is created only if predictions are
    missing.
    """
    if path.is_file():
        return read_predictions(path)
    prompts = {example.id: encoder.prompt(instruction, example.input, settings.max_prompt_length) for example in examples}
    by_id = {example.id: example for example in examples}
    ids = list(by_id)
    sharing: dict[tuple[int, ...], list[str]] = {}
    for id in ids:
        sharing.setdefault(tuple(prompts[id].ids), []).append(id)
    distinct = sorted(sharing, key=lambda prompt: -len(prompt))
    batches = [[id for prompt in batch for id in sharing[prompt]] for batch in chunks(distinct, settings.batch_size)]

    def unfinished(done: set[str]) -> list[list[str]]:
        return [batch for batch in batches if not done.issuperset(batch)]

    generator = cache(make_generator)

    def predict(batch: list[str]) -> list[dict[str, Any]]:
        asked = list(dict.fromkeys(tuple(prompts[id].ids) for id in batch))
        answers = dict(zip(asked, generator().answers([list(prompt) for prompt in asked]), strict=True))
        return [asdict(_prediction(by_id[id], prompts[id], answers[tuple(prompts[id].ids)])) for id in batch]

    return [Prediction(**row) for row in complete_rows(path, ids, unfinished, generator, predict, description)]


def join_steps(path: Path, examples: list[Example], steps: list[list[Prediction]]) -> list[Prediction]:
    """Predictions of several steps as one file: the example's input, the last output, and the one before as `intermediate`."""
    joined = [
        replace(
            of_steps[-1],
            input=example.input,
            intermediate=of_steps[-2].output,
            prompt_truncated=any(one.prompt_truncated for one in of_steps),
            output_cut_off=any(one.output_cut_off for one in of_steps),
        )
        for example, *of_steps in zip(examples, *steps, strict=True)
    ]
    write_text(path, "".join(line_of(asdict(prediction)) for prediction in joined))
    return joined


def read_predictions(path: Path) -> list[Prediction]:
    """The predictions in a file; raises UserError with file and line for an invalid line, and for a file that has changed."""
    recorded = read_recorded(path.with_name(SETTINGS_FILE), **{HASHES: {"*": str}}).get(HASHES, {})
    if not is_unchanged(path, recorded.get(path.name)):
        raise UserError(has_changed(path))
    predictions = []
    for number, row in read_json_lines(path):
        try:
            predictions.append(Prediction(**row))
        except TypeError as error:
            raise UserError(f"{path}, line {number}: not a prediction ({first_line(error)}); make the file again") from error
    return predictions


def _prediction(example: Example, prompt: Prompt, answer: Answer) -> Prediction:
    return Prediction(example.id, example.input, example.reference, answer.text, prompt.truncated, answer.cut_off)
