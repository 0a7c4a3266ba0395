"""Models that make texts of texts: translators and tone rewriters, one file each, found by being in this folder.

A file has TASKS, the names of the tasks it can do, and a function `text_model(task, settings)` that returns a TextModel. It imports
libraries of weight only when the model is started. Its name is what `--translator` or `--tone_rewriter` says.
"""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from src.errors import UserError, nearest
from src.tasks import Task


@dataclass(frozen=True)
class TextModelSettings:
    """What a user may say of a text model; None is the model's own choice. `converted` is where a converted adapter is kept."""

    model: str | None = None
    adapter: str | None = None
    dtype: str = "auto"
    converted: Path | None = None


class TextModel(Protocol):
    """Texts → texts. `batch_size` is how many are given to it at a time by default; the same batch gives the same texts."""

    batch_size: int

    def identity(self) -> dict[str, Any]:
        """What decides its texts, as JSON: names and revisions, or hashes of local files, and settings. Needs no network."""

    def check(self) -> None:
        """Raise UserError when it can't be had, without loading its weights."""

    def start(self) -> None:
        """Load it, unless it is loaded."""

    def loaded(self) -> dict[str, Any]:
        """What was loaded, where `identity` leaves it open: commits of the hub, and the precision on this machine."""

    def stop(self) -> None:
        """Give its memory back; it can be started again."""

    def rewrite(self, texts: list[str]) -> list[str]:
        """A text for each of the texts, in their order. Raises UserError for a text that it can't take."""


def text_model_names() -> list[str]:
    """The names of all text models, without importing any."""
    return [module.name for module in pkgutil.iter_modules(__path__)]


def text_model_files() -> dict[str, ModuleType]:
    """The modules of this folder, by name."""
    return {name: importlib.import_module(f"{__name__}.{name}") for name in text_model_names()}


def find_text_model(name: str, task: Task, settings: TextModelSettings, flag: str) -> TextModel:
    """The text model of a file's name for a task; raises UserError that names the flag when there is none for it."""
    files = text_model_files()
    able = [known for known, module in files.items() if task.name in module.TASKS]
    if name not in files:
        raise UserError(f"{flag} {name}: there is no such text model: {nearest(name, text_model_names())}")
    if name not in able:
        raise UserError(f"{flag} {name}: it does not do {task.name}; {', '.join(able)} can")
    return files[name].text_model(task, settings)
