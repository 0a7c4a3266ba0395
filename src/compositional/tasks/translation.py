"""Translation from English, an auxiliary task with a variant per target language."""

from __future__ import annotations

from compositional.tasks import Task

LANGUAGES = {"es": "Spanish", "fr": "French", "de": "German"}


def tasks() -> list[Task]:
    """A task per target language."""
    return [
        Task(
            "translation",
            "auxiliary",
            f"Translate the following text to {language}",
            f"It is written in {language}, correctly and naturally, with no part of it left in another language.",
            variant=code,
            continuation=f"then translate it to {language}",
            language=code,
            headline_metric="rougeL",
        )
        for code, language in LANGUAGES.items()
    ]
