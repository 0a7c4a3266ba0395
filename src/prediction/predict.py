"""Predict a whole split into a file, batch by batch, from where an interrupted run stopped."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Protocol

from src.data import Example
from src.encoding import ChatEncoder, Prompt
from src.files import read_json_lines, write_text
from src.models import BaseModel
from src.prediction import Answer, Prediction, PredictionSettings

logger = logging.getLogger(__name__)


class Generator(Protocol):
    """What a backend offers."""

    def answers(self, prompts: list[list[int]]) -> list[Answer]: ...


def predict_split(
    path: Path,
    examples: list[Example],
    instruction: str,
    base: BaseModel,
    settings: PredictionSettings,
    make_generator: Callable[[], Generator],
    description: str,
) -> list[Prediction]:
    """Predictions for all examples, in their order, and in the file `path` once all are made.

    Batches are the same in every run, the longest prompts first. Each finished batch is appended to `path`.partial; a run
    that finds such a file keeps its whole batches. The generator is made only if there is something left to do.
    """
    from tqdm import tqdm

    if path.is_file():
        return read_predictions(path)
    encoder = ChatEncoder(base.tokenizer())
    prompts = [encoder.prompt(instruction, example.input, settings.max_prompt_length) for example in examples]
    order = sorted(range(len(examples)), key=lambda index: (-len(prompts[index].ids), index))
    batches = [order[start : start + settings.batch_size] for start in range(0, len(order), settings.batch_size)]
    partial = path.with_name(path.name + ".partial")
    done = _whole_batches(partial, [[examples[index].id for index in batch] for batch in batches])
    write_text(partial, "".join(_line(prediction) for prediction in done.values()))
    remaining = [batch for batch in batches if examples[batch[0]].id not in done]
    if remaining:
        generator = make_generator()
        with open(partial, "a", encoding="utf-8") as file, tqdm(total=len(examples), initial=len(done), desc=description) as bar:
            for batch in remaining:
                answers = generator.answers([prompts[index].ids for index in batch])
                made = [_prediction(examples[i], prompts[i], answer) for i, answer in zip(batch, answers, strict=True)]
                file.write("".join(map(_line, made)))
                file.flush()
                os.fsync(file.fileno())
                done |= {prediction.id: prediction for prediction in made}
                bar.update(len(batch))
    logger.debug("%s: %d predictions, %d made before", description, len(examples), len(examples) - sum(map(len, remaining)))
    predictions = [done[example.id] for example in examples]
    write_predictions(path, predictions)
    partial.unlink()
    return predictions


def join_steps(path: Path, examples: list[Example], first: list[Prediction], second: list[Prediction]) -> list[Prediction]:
    """Predictions of two steps as one file: the example's input, the first output as `intermediate`, the second as output."""
    joined = [
        replace(
            last,
            input=example.input,
            intermediate=one.output,
            prompt_truncated=one.prompt_truncated or last.prompt_truncated,
            output_cut_off=one.output_cut_off or last.output_cut_off,
        )
        for example, one, last in zip(examples, first, second, strict=True)
    ]
    write_predictions(path, joined)
    return joined


def read_predictions(path: Path) -> list[Prediction]:
    return [Prediction(**row) for _, row in read_json_lines(path)]


def write_predictions(path: Path, predictions: list[Prediction]) -> None:
    write_text(path, "".join(map(_line, predictions)))


def _prediction(example: Example, prompt: Prompt, answer: Answer) -> Prediction:
    return Prediction(example.id, example.input, example.reference, answer.text, prompt.truncated, answer.cut_off)


def _line(prediction: Prediction) -> str:
    return json.dumps(asdict(prediction), ensure_ascii=False) + "\n"


def _whole_batches(path: Path, batches: list[list[str]]) -> dict[str, Prediction]:
    """Predictions, by example, of the batches that an interrupted run finished. Only the file's last line may be broken."""
    if not path.is_file():
        return {}
    found = {}
    for line in path.read_bytes().split(b"\n")[:-1]:
        prediction = Prediction(**json.loads(line))
        found[prediction.id] = prediction
    whole = [batch for batch in batches if all(id in found for id in batch)]
    return {id: found[id] for batch in whole for id in batch}
