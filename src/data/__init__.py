"""Data sets: one file per source, found by being in this folder.

A file has a function `datasets(locations)` that returns the sets it can read. Nothing is read, and no library of
weight is imported, until a set's `read` is called.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from src.errors import UserError, nearest
from src.tasks import Task


@dataclass(frozen=True)
class Example:
    """One input and its reference, both plain text."""

    id: str
    input: str
    reference: str


@dataclass(frozen=True)
class Locations:
    """Where data is read from: prepared sets below `prepared`, publishers' files in `raw` (None: the hub)."""

    prepared: Path
    raw: Path | None


@dataclass(frozen=True)
class Dataset:
    """A named set. `tasks` is the one task of its targets, or a main and an auxiliary task when it is compositional.

    `inputs_of` is the name of the single-task set that has the same inputs (its own name for a single-task set).
    `read(split)` returns the examples of "train", "validation" or "test" and raises UserError where they are missing or broken.
    """

    name: str
    tasks: tuple[Task, ...]
    inputs_of: str
    read: Callable[[str], list[Example]]

    @property
    def is_compositional(self) -> bool:
        return len(self.tasks) == 2

    @property
    def main_task(self) -> Task:
        return self.tasks[0]

    @property
    def language(self) -> str:
        """Language of the references."""
        return self.tasks[-1].language


def all_datasets(locations: Locations) -> dict[str, Dataset]:
    """The sets of every file in this folder, by name."""
    modules = [importlib.import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__)]
    return {dataset.name: dataset for module in modules for dataset in module.datasets(locations)}


def find_dataset(name: str, locations: Locations) -> Dataset:
    """The set of a name; raises UserError with the nearest names otherwise."""
    known = all_datasets(locations)
    if name not in known:
        raise UserError(f"unknown dataset {name!r}: {nearest(name, known)}")
    return known[name]


def field(row: dict, column: str, place: str) -> str:
    """A text column of a row; raises UserError that says where the row stands when it has no such text."""
    value = row.get(column)
    if not isinstance(value, str) or not value.strip():
        found = f"found {value!r}" if column in row else f"it has {', '.join(map(str, row)) or 'no columns'}"
        raise UserError(f"{place}: expected a text in column {column!r}, {found}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{place}: the text in column {column!r} is not valid Unicode ({error.reason})") from error
    return value
