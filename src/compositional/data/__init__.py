"""Data sets: one file per source. Every file in this folder is loaded.

A file has a function `datasets(locations)` that returns its sets, built by `published_set`, `rewritten_set` and
`compositional_sets`. It must read no data and import no heavy library until a set's `read` is called.
"""

from __future__ import annotations

import hashlib
import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Literal

from compositional.core.errors import UserError, first_line, nearest
from compositional.core.files import hash_of_files
from compositional.core.hub import hub_errors
from compositional.core.recorded import has_changed, read_recorded
from compositional.paper import LANGUAGES, TONES
from compositional.tasks import Task, all_tasks

SPLITS = ("train", "validation", "test")
Benchmark = Literal["paper", "pocket"]
# The record of the preparation in a set's folder, beside the examples.
PREPARATION_RECORD = "preparation.json"
HASHES_OF_SPLITS = "hashes_of_splits"  # in that record, by split


@dataclass(frozen=True)
class Example:
    """One input and its reference, both plain text."""

    id: str
    input: str
    reference: str


def name_of_input(text: str) -> str:
    """Which input a text is, the same in every set and experiment: the first 16 hexadecimal digits of its SHA-256.

    Examples with one input are resampled together.
    """
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Reading:
    """The examples of one split of a source, and the number of items left out of it, by reason."""

    examples: list[Example]
    left_out: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Source:
    """A published source of texts.

    `rows` is the publishers' count by split; `files` are the names of their files in `--raw_data_dir`, by split. `example` is a
    real example. A source without `hub_id` is not on the hub.
    """

    title: str
    columns: str
    example: str
    licence: str
    split_rule: str
    rows: dict[str, int]
    files: dict[str, str] = field(default_factory=dict)
    hub_id: str | None = None
    revision: str | None = None


@dataclass(frozen=True)
class Locations:
    """Where data is read from: prepared sets in subfolders of `prepared`, publishers' files in `raw` (None: the hub)."""

    prepared: Path
    raw: Path | None


@dataclass(frozen=True)
class Dataset:
    """A named data set. `tasks` are the tasks that its targets answer: one, or a main task and auxiliary ones (compositional).

    `inputs_of` is the name of the single-task set that has the same inputs (its own name for a single-task set).
    `read_source(split)` returns the source's examples. In a `rewritten` set, the preparation still has to apply the last task
    (translation or tone) to their references. `generate(split)` returns the examples if there is no prepared folder; without
    `generate`, the set must be prepared. `from_files` says that the user has named the publishers' files; they then take
    precedence over a prepared folder. `benchmark` decides which sets are prepared by default, and with which models.
    """

    name: str
    tasks: tuple[Task, ...]
    inputs_of: str
    source: Source
    folder: Path
    read_source: Callable[[str], Reading]
    generate: Callable[[str], list[Example]] | None
    rewritten: bool = False
    from_files: bool = False
    benchmark: Benchmark | None = None

    @property
    def is_compositional(self) -> bool:
        """Whether its targets need several tasks."""
        return len(self.tasks) > 1

    @property
    def main_task(self) -> Task:
        """The first task of its targets."""
        return self.tasks[0]

    @property
    def language(self) -> str:
        """Language of the references: set by the last task that changes it, else English."""
        return next((task.language for task in reversed(self.tasks) if task.language != "en"), "en")

    @property
    def is_read_from_folder(self) -> bool:
        """Whether `read` uses the prepared folder rather than the source."""
        return self.generate is None or (is_saved(self.folder) and not self.from_files)

    @property
    def is_on_hub(self) -> bool:
        """Whether its source is read from the hub."""
        return self.source.hub_id is not None and not self.from_files

    def read(self, split: str) -> list[Example]:
        """The examples of "train", "validation" or "test"; raises UserError when they are missing or invalid."""
        if not self.is_read_from_folder:
            return self.generate(split)
        if not is_saved(self.folder):
            raise UserError(f"{self.folder} is missing: bash prepare_compositional_task_data.sh --only {self.name} makes it")
        return read_saved(self.folder, split)

    def origin(self) -> str:
        """Where its source is read from."""
        if self.is_on_hub:
            return f"hub {self.source.hub_id}@{self.source.revision}"
        return "the publishers' files" if self.source.files else self.source.title

    def provenance(self) -> dict[str, Any]:
        """Where the examples of `read` come from: the preparation's fingerprint and models, or the source itself."""
        if not self.is_read_from_folder:
            return {"source": self.origin()}
        path = self.folder / PREPARATION_RECORD
        record = read_recorded(path)
        return {"folder": self.folder.name} | {key: record.get(key) for key in ("fingerprint", "made_from")}


def papers_benchmark(task: Task) -> Benchmark | None:
    """The benchmark of a set from the paper's sources: "paper", unless the task has a language or tone outside the paper."""
    return "paper" if task.variant in (None, *LANGUAGES, *TONES) else None


def published_set(
    name: str,
    task: Task,
    source: Source,
    locations: Locations,
    read_source: Callable[[Locations, str], Reading],
    benchmark: Benchmark | None = None,
) -> Dataset:
    """A single-task set with the published targets. It can be used without preparation."""

    def read(split: str) -> Reading:
        return read_source(locations, split)

    return Dataset(
        name,
        (task,),
        name,
        source,
        folder=locations.prepared / name,
        read_source=read,
        generate=lambda split: read(split).examples,
        from_files=locations.raw is not None,
        benchmark=benchmark,
    )


def rewritten_set(
    name: str,
    tasks: tuple[Task, ...],
    inputs_of: str,
    source: Source,
    locations: Locations,
    read_source: Callable[[Locations, str], Reading],
    benchmark: Benchmark | None = None,
) -> Dataset:
    """A set whose targets a text model makes from the source's. It must be prepared."""
    return Dataset(
        name,
        tasks,
        inputs_of,
        source,
        folder=locations.prepared / name,
        read_source=lambda split: read_source(locations, split),
        generate=None,
        rewritten=True,
        from_files=locations.raw is not None,
        benchmark=benchmark,
    )


def compositional_sets(main: Dataset, locations: Locations) -> list[Dataset]:
    """A main task's set, and one set per auxiliary task with the same inputs and with targets translated or changed in tone.

    Only the targets change, as in the paper's later code base. A set is named after the main set and the language or tone:
    dialogsum_es. If the main set belongs to the paper's benchmark, so do its sets in the paper's languages and tones.
    """

    def read_source(_: Locations, split: str) -> Reading:
        return main.read_source(split)

    return [main] + [
        rewritten_set(
            f"{main.name}_{task.variant}",
            (main.main_task, task),
            main.name,
            main.source,
            locations,
            read_source,
            papers_benchmark(task) if main.benchmark == "paper" else None,
        )
        for task in all_tasks()
        if task.role == "auxiliary"
    ]


def all_datasets(locations: Locations) -> dict[str, Dataset]:
    """The sets of every file in this folder, by name."""
    modules = [importlib.import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__)]
    return {dataset.name: dataset for module in modules for dataset in module.datasets(locations)}


def find_dataset(name: str, locations: Locations) -> Dataset:
    """The set of a given name; raises UserError with the nearest names for an unknown one."""
    known = all_datasets(locations)
    if name not in known:
        raise UserError(f"unknown dataset {name!r}: {nearest(name, known)}")
    return known[name]


def text_field(row: dict, column: str, place: str, may_be_blank: bool = False) -> str:
    """The text in a column of a row; raises UserError with the row's position `place` when it is missing or invalid."""
    value = row.get(column)
    if not isinstance(value, str) or not (value.strip() or may_be_blank):
        problem = f"found {value!r}" if column in row else f"it has {', '.join(map(str, row)) or 'no columns'}"
        raise UserError(f"{place}: expected a text in column {column!r}, {problem}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{place}: the text in column {column!r} is not valid Unicode ({error.reason})") from error
    return value


def source_file(source: Source, locations: Locations, split: str) -> Path:
    """The publishers' file of a split; raises UserError when it is missing."""
    path = locations.raw / source.files[split]
    if not path.is_file():
        raise UserError(f"{path} is missing: it is the {split} split of {source.title} in its publishers' format")
    return path


def is_saved(folder: Path) -> bool:
    """Whether a folder holds a set that `datasets.DatasetDict.save_to_disk` wrote."""
    return (folder / "dataset_dict.json").is_file()


def hash_of_split(folder: Path, split: str) -> str:
    """SHA-256 of a saved split's rows."""
    return hash_of_files(sorted((folder / split).glob("data-*.arrow")))


def load_saved(folder: Path) -> Any:
    """The splits that a saved set has; raises UserError when its files are damaged, which `datasets` says in many ways."""
    import pyarrow
    from datasets import load_from_disk

    try:
        return load_from_disk(str(folder))
    except (OSError, ValueError, TypeError, KeyError, AttributeError, pyarrow.ArrowException) as error:
        raise UserError(f"{folder} is damaged: {first_line(error)}; make it again") from error


def read_saved(folder: Path, split: str) -> list[Example]:
    """A split of a saved set with columns id, input and target. Targets may be blank: the preparation keeps and reports them."""
    recorded = read_recorded(folder / PREPARATION_RECORD).get(HASHES_OF_SPLITS, {}).get(split)
    if recorded is not None and recorded != hash_of_split(folder, split):
        raise UserError(has_changed(folder / split))
    splits = load_saved(folder)
    if split not in splits:
        raise UserError(f"{folder} has no {split} split; it has {', '.join(splits)}")
    return [
        Example(
            str(row.get("id", f"{split}_{number}")),
            text_field(row, "input", f"{folder}, {split}, row {number}"),
            text_field(row, "target", f"{folder}, {split}, row {number}", may_be_blank=True),
        )
        for number, row in enumerate(splits[split])
    ]


def load_hub_split(source: Source, split: str) -> Any:
    """The rows of a split, by `datasets.load_dataset`; raises UserError when the hub can't be reached or lacks the split."""
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    try:
        return load_dataset(source.hub_id, revision=source.revision, split=split)
    except (*hub_errors(), DatasetsError) as error:
        reason = first_line(error)
        raise UserError(
            f"data set {source.hub_id} ({split}) could not be loaded from the hub ({reason}); "
            "without a network, name the publishers' files with --raw_data_dir"
        ) from error


def split_off(rows: list[Any], seed: str, path: Path, test: int, validation: int) -> dict[str, list[Any]]:
    """The rows of a file by split, in their order, by a seeded choice; raises UserError for too few rows."""
    if len(rows) <= test + validation:
        raise UserError(f"{path}: it has {len(rows)} entries; more than {test + validation} are needed to split off a test")
    order = Random(seed).sample(range(len(rows)), len(rows))
    places = {"test": order[:test], "validation": order[test : test + validation], "train": order[test + validation :]}
    return {split: [rows[place] for place in sorted(chosen)] for split, chosen in places.items()}
