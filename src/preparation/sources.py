"""The sources of the sets that are made: read once each, before anything is made of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from random import Random

from src.data import SPLITS, Dataset, Example, Reading
from src.errors import UserError
from src.files import hash_of_json


@dataclass(frozen=True)
class SourceExamples:
    """A source's examples by split, after sampling, what was left out of them by split and reason, and their hash."""

    splits: dict[str, list[Example]]
    left_out: dict[str, dict[str, int]]
    hash: str


def read_sources(datasets: Iterable[Dataset], max_train_examples: int | None, seed: int) -> dict[str, SourceExamples]:
    """The source examples of each set, by its name; raises UserError with all that is missing or broken."""
    by_source: dict[tuple[str, str], SourceExamples | UserError] = {}
    found, mistakes = {}, []
    for dataset in datasets:
        key = (dataset.source.title, dataset.inputs_of)
        if key not in by_source:
            by_source[key] = _read(dataset, max_train_examples, seed)
        if isinstance(by_source[key], UserError):
            mistakes += by_source[key].mistakes
        else:
            found[dataset.name] = by_source[key]
    if mistakes:
        raise UserError(*dict.fromkeys(mistakes))
    return found


def _read(dataset: Dataset, max_train_examples: int | None, seed: int) -> SourceExamples | UserError:
    """A source's examples, or all that is wrong with it, so that it is read once for all sets that are made of it."""
    readings, mistakes = {}, []
    for split in SPLITS:
        try:
            readings[split] = _read_split(dataset, split)
        except UserError as error:
            mistakes += error.mistakes
            if dataset.is_on_hub:  # the other splits can't be had, either
                break
    if mistakes:
        return UserError(*mistakes)
    readings["train"] = _sampled(readings["train"], max_train_examples, f"{seed}/{dataset.source.title}/train")
    splits = {split: reading.examples for split, reading in readings.items()}
    rows = {split: [[example.id, example.input, example.reference] for example in examples] for split, examples in splits.items()}
    return SourceExamples(splits, {split: reading.left_out for split, reading in readings.items()}, hash_of_json(rows))


def _read_split(dataset: Dataset, split: str) -> Reading:
    reading = dataset.read_source(split)
    if not reading.examples:
        raise UserError(f"the {split} split of {dataset.source.title} has no examples")
    repeated = len(reading.examples) - len({example.id for example in reading.examples})
    if repeated:
        raise UserError(f"the {split} split of {dataset.source.title} has ids that stand there twice ({repeated} too many)")
    return reading


def _sampled(reading: Reading, count: int | None, seed: str) -> Reading:
    if not count or count >= len(reading.examples):
        return reading
    chosen = sorted(Random(seed).sample(range(len(reading.examples)), count))
    left_out = reading.left_out | {"examples that were not sampled": len(reading.examples) - count}
    return Reading([reading.examples[index] for index in chosen], left_out)
