"""Pocket's grammar as translator and tone rewriter: offline, exact, for texts in Pocket's English only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from src.errors import UserError
from src.files import hash_of_files
from src.tasks import Task
from src.text_models import TextModelSettings

TASKS = ("translation", "tone_adjustment")


def text_model(task: Task, settings: TextModelSettings) -> PocketGrammar:
    if settings.model or settings.adapter:
        raise UserError("the text model pocket is a grammar: it takes no model and no adapter")
    return PocketGrammar(task.variant)


class PocketGrammar:
    """Reads a text's meaning and says it in a style of Pocket's."""

    batch_size = 2000

    def __init__(self, style: str) -> None:
        self.style = style

    def identity(self) -> dict[str, Any]:
        grammar = Path(__file__).parents[1] / "pocket"
        return {"model": "pocket", "style": self.style, "grammar": hash_of_files(sorted(grammar.glob("*.py")))}

    def check(self) -> None:
        """A grammar is always there."""

    def start(self) -> None:
        """A grammar is always there."""

    def loaded(self) -> dict[str, Any]:
        return {}

    def stop(self) -> None:
        """A grammar takes no memory to speak of."""

    def rewrite(self, texts: list[str]) -> list[str]:
        from src.pocket.reading import read_english
        from src.pocket.sentences import render_all

        return [render_all(read_english(text), self.style) for text in texts]
