"""Sets before and after preparation: their sources, read once each, and the folders that `datasets` saves with their records."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from compositional.core.errors import UserError, first_line
from compositional.core.files import folder_in_the_making, hash_of_files, hash_of_json
from compositional.core.recorded import read_recorded, write_record
from compositional.data import (
    HASHES_OF_SPLITS,
    PREPARATION_RECORD,
    SPLITS,
    Dataset,
    Example,
    Reading,
    hash_of_split,
    is_saved,
    load_saved,
)
from compositional.preparation.quality import PreparedExample


@dataclass(frozen=True)
class SourceExamples:
    """A source's examples by split, after sampling, what was left out of them by split and reason, and their hash."""

    splits: dict[str, list[Example]]
    left_out: dict[str, dict[str, int]]
    hash: str


def read_sources(datasets: Iterable[Dataset], max_train_examples: int | None, seed: int) -> dict[str, SourceExamples]:
    """The source examples of each set, by its name; raises UserError with all that is missing or broken.

    Sets that the preparation rewrites share their source, whose references are not yet theirs.
    """
    by_source: dict[tuple[str, str], SourceExamples | UserError] = {}
    found, mistakes = {}, []
    for dataset in datasets:
        key = (dataset.source.title, dataset.inputs_of if dataset.rewritten else dataset.name)
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
        raise UserError(f"the {split} split of {dataset.source.title} has duplicate ids ({repeated} too many)")
    return reading


def _sampled(reading: Reading, count: int | None, seed: str) -> Reading:
    if not count or count >= len(reading.examples):
        return reading
    chosen = sorted(Random(seed).sample(range(len(reading.examples)), count))
    left_out = reading.left_out | {"examples that were not sampled": len(reading.examples) - count}
    return Reading([reading.examples[index] for index in chosen], left_out)


def save_set(folder: Path, splits: dict[str, list[PreparedExample]], record: dict[str, Any]) -> None:
    """Write a set's folder as a whole: columns id, input, target, findings, and source where targets were made from one."""
    from datasets import Dataset, DatasetDict, Features, List, Value

    is_rewritten = any(example.source is not None for examples in splits.values() for example in examples)
    columns = ["id", "input", "target", *(["source"] if is_rewritten else [])]
    features = Features({name: Value("string") for name in columns} | {"findings": List(Value("string"))})
    saved = {
        split: Dataset.from_dict(
            {name: [getattr(example, name) for example in examples] for name in columns}
            | {"findings": [list(example.findings) for example in examples]},
            features=features,
        )
        for split, examples in splits.items()
    }
    with folder_in_the_making(folder) as unfinished:
        DatasetDict(saved).save_to_disk(str(unfinished))
        hashes = {split: hash_of_split(unfinished, split) for split in saved}
        record |= {HASHES_OF_SPLITS: hashes, _HASH_OF_DESCRIPTIONS: _hash_of_descriptions(unfinished)}
        write_record(unfinished / PREPARATION_RECORD, record)


_HASH_OF_DESCRIPTIONS = "hash_of_descriptions"  # those that `datasets` writes beside the rows


def _hash_of_descriptions(folder: Path) -> str:
    names = ("dataset_dict.json", *(f"{split}/{name}.json" for split in SPLITS for name in ("dataset_info", "state")))
    return hash_of_files([folder / name for name in names])


def damaged_parts(folder: Path, record: dict[str, Any]) -> list[str]:
    """What of a whole set is not as it was saved; nothing where an older record has no hashes."""
    recorded = record.get(HASHES_OF_SPLITS, {})
    parts = [split for split in SPLITS if recorded.get(split) not in (None, hash_of_split(folder, split))]
    described = record.get(_HASH_OF_DESCRIPTIONS) in (None, _hash_of_descriptions(folder))
    return parts if described else [*parts, "what datasets says of them"]


def read_back(folder: Path) -> dict[str, list[PreparedExample]]:
    """The examples of a saved set, by split."""
    import pyarrow

    saved = load_saved(folder)
    try:
        return {
            split: [PreparedExample(**(row | {"findings": tuple(row["findings"])})) for row in rows]
            for split, rows in saved.items()
        }
    except (OSError, ValueError, TypeError, KeyError, pyarrow.ArrowException) as error:
        raise UserError(f"{folder} is damaged ({first_line(error)}): --overwrite makes it anew") from error


def record_of(folder: Path) -> dict[str, Any] | None:
    """The record of a whole set that the preparation saved; None otherwise, also for a damaged record."""
    path = folder / PREPARATION_RECORD
    described = all((folder / split / f"{name}.json").is_file() for split in SPLITS for name in ("dataset_info", "state"))
    is_whole = is_saved(folder) and described
    if not (is_whole and path.is_file()):
        return None
    try:
        record = read_recorded(path)
    except UserError:
        return None
    return record if isinstance(record, dict) and {"fingerprint", "made_from", "counts", "findings"} <= record.keys() else None
