"""Pocket's grammar as translator and tone rewriter: offline, exact, for texts in Pocket's English only."""

from __future__ import annotations

from typing import Any

from compositional.core.errors import UserError
from compositional.pocket import GRAMMAR_REVISION
from compositional.preparation.text_models import TextModelSettings
from compositional.tasks import Task

TASKS = ("translation", "tone_adjustment")
REVISION = "05400d0c622fb38ae784877c8b444aa52fb58cb3c7dc8f67f4622cf2197a6abb"


def text_model(task: Task, settings: TextModelSettings) -> PocketGrammar:
    """The grammar for a task; raises UserError when a model or an adapter is named."""
    if settings.model or settings.adapter:
        raise UserError("the text model pocket is a grammar: it takes no model and no adapter")
    return PocketGrammar(task.variant)


class PocketGrammar:
    """Reads a text's meaning and says it in a style of Pocket's."""

    batch_size = 2000

    def __init__(self, style: str) -> None:
        self.style = style

    def identity(self) -> dict[str, Any]:
        """The style and the grammar's revision; see `TextModel`."""
        return {"model": "pocket", "style": self.style, "grammar": GRAMMAR_REVISION}

    def check(self) -> None:
        """Nothing to check."""

    def start(self) -> None:
        """Nothing to load."""

    def loaded(self) -> dict[str, Any]:
        """Nothing is loaded."""
        return {}

    def stop(self) -> None:
        """A grammar takes no memory to speak of."""

    def rewrite(self, texts: list[str]) -> list[str]:
        """What each text means, in the style; raises UserError for a text that is none of Pocket's."""
        from compositional.pocket.reading import read_english
        from compositional.pocket.sentences import render_all

        return [render_all(read_english(text), self.style) for text in texts]
