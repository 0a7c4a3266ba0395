"""Summarization, a main task. The instruction is the paper's."""

from __future__ import annotations

from compositional.tasks import Task


def tasks() -> list[Task]:
    """The task."""
    return [
        Task(
            "summarization",
            "main",
            "Summarize the following text",
            "It is a summary of the input: shorter, with what matters most in it, and with nothing that the input does not say.",
            headline_metric="rougeL",
        )
    ]
