"""Text-to-text models: translators and tone rewriters, one file each, found by being in this folder.

A file has TASKS, the names of the tasks it can do, REVISION, which prepared sets record and which needs a new value when
the texts change that it makes, and a function `text_model(task, settings)` that returns a TextModel. NEEDS_MODEL = True says
that a user has to name a model. It imports libraries of weight only when the model is started. Its name is what `--translator`
or `--tone_rewriter` says.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from compositional.core.errors import UserError, nearest
from compositional.core.resumable import chunks
from compositional.tasks import Task


@dataclass(frozen=True)
class TextModelSettings:
    """What a user may say of a text model; None is the model's own choice.

    `converted` is where a converted adapter is kept, `logs` where an engine's messages go.
    """

    model: str | None = None
    adapter: str | None = None
    dtype: str = "auto"
    converted: Path | None = None
    logs: Path | None = None


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


# Paragraphs, sentences (with closing quotes), clauses, words, each with the white space after it.
_UNITS = tuple(re.compile(rf".*?(?:{end}|$)", re.DOTALL) for end in (r"\n+", r"[.!?…][\"'”’»)]*\s+", r"[;:,–—]\s+", r"\s+"))


def split_text(text: str, length: Callable[[str], int], longest: int) -> list[str]:
    """Pieces of at most `longest` by `length` that make up the text when joined: sentences where possible, then clauses, words.

    A word that is too long by itself is cut in the middle. A text that is short enough is one piece.
    """
    return _split(text, length, longest, 0)


def rewrite_in_pieces(
    texts: list[str], length: Callable[[str], int], longest: int, rewrite: Callable[[list[str]], list[str]]
) -> list[str]:
    """Rewrite texts, each in pieces of at most `longest`, joined by a space; as many pieces at a time as there are texts."""
    pieces = [[piece.strip() for piece in split_text(text, length, longest) if piece.strip()] for text in texts]
    batches = chunks([piece for parts in pieces for piece in parts], max(1, len(texts)))
    rewritten = iter([made for batch in batches for made in rewrite(batch)])
    return [" ".join(filter(None, (next(rewritten) for _ in parts))) for parts in pieces]


def _split(text: str, length: Callable[[str], int], longest: int, level: int) -> list[str]:
    if length(text) <= longest or len(text) < 2:
        return [text]
    if level == len(_UNITS):
        middle = len(text) // 2
        return [piece for half in (text[:middle], text[middle:]) for piece in _split(half, length, longest, level)]
    pieces: list[str] = []
    for part in filter(None, _UNITS[level].findall(text)):
        if pieces and length(pieces[-1] + part) <= longest:
            pieces[-1] += part
        else:
            pieces += _split(part, length, longest, level + 1)
    return pieces


class LoadedModel:
    """What text models of transformers have in common: a model, from start to stop."""

    model: Any = None

    def loaded(self) -> dict[str, Any]:
        """The hub's commit of what was loaded, its precision and its device."""
        commit = getattr(self.model.config, "_commit_hash", None)
        return {"commit": commit, "dtype": str(self.model.dtype), "device": str(self.model.device)}

    def stop(self) -> None:
        """Give the model's memory back to the device."""
        import gc

        import torch

        self.model = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
