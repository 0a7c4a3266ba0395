"""Summarization, a main task. The instruction is the paper's."""

from src.tasks import Task


def tasks() -> list[Task]:
    return [Task("summarization", "main", "Summarize the following text", headline_metric="rougeL")]
