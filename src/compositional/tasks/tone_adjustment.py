"""Tone adjustment, an auxiliary task with a variant per tone; a paraphrase counts as a tone, as in the paper."""

from __future__ import annotations

from compositional.tasks import Task

TONES = ("professional", "casual", "witty")


def tasks() -> list[Task]:
    """A task per tone."""
    toned = [
        Task(
            "tone_adjustment",
            "auxiliary",
            f"Rewrite the following text in a {tone} tone",
            f"Its tone is {tone}, plainly so, from its choice of words.",
            variant=tone,
            continuation=f"then rewrite it in a {tone} tone",
            headline_metric="rougeL",
        )
        for tone in TONES
    ]
    paraphrase = Task(
        "tone_adjustment",
        "auxiliary",
        "Paraphrase the following text",
        "It is a paraphrase: in words and sentences of its own rather than those of the input.",
        variant="paraphrase",
        continuation="then paraphrase it",
        headline_metric="rougeL",
    )
    return [*toned, paraphrase]
