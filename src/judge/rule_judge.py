"""Pocket's judge: its grammar instead of a model."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from src.files import hash_of_files
from src.judge import Reply, Request
from src.models import POCKET
from src.pocket.meaning import Sentence

_GRAMMAR = ("rules", "lexicon", "meaning", "english", "translations", "sentences", "dialogues", "examples")


class RuleJudge:
    """Says yes when an output says the event that Pocket meant, in the asked language or tone; see `pocket.rules`."""

    @property
    def identity(self) -> dict[str, Any]:
        folder = Path(__file__).parents[1] / "pocket"
        revision = hash_of_files([folder / f"{name}.py" for name in _GRAMMAR])
        return {"judge": "rule", "model": POCKET, "revision": revision}

    def start(self) -> None:
        """Nothing needs to start."""

    def replies(self, requests: list[Request]) -> list[Reply]:
        return [_reply(request) for request in requests]


def _reply(request: Request) -> Reply:
    from src.pocket.rules import says

    source = request.dataset.name.removeprefix("pocket_").split("_")[0]
    meaning = _meanings(source, request.split).get(request.input)
    if meaning is None:
        return Reply(failure="the input is none of Pocket's")
    style = "_".join(task.variant for task in request.dataset.tasks if task.variant) or "en"
    return Reply("yes" if says(request.output, meaning, style) else "no")


@cache
def _meanings(source: str, split: str) -> dict[str, tuple[Sentence, ...]]:
    from src.pocket.examples import draw_examples

    return {example.input: example.meaning for example in draw_examples(source, split)}
