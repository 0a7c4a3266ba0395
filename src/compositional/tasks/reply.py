"""Suggesting a reply, a main task. The instruction is the paper's."""

from __future__ import annotations

from compositional.tasks import Task


def tasks() -> list[Task]:
    """The task."""
    return [
        Task(
            "reply",
            "main",
            "Suggest a reply for the following text",
            "It is a reply to the input: what the person spoken to could sensibly say next, fitting what was said.",
            headline_metric="weighted_rouge",
        )
    ]
