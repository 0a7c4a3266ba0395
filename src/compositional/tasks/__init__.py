"""Tasks: one file each. Every file in this folder is loaded; its function `tasks()` returns its tasks."""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import dataclass
from functools import cache

from compositional.core.errors import UserError, nearest


@dataclass(frozen=True)
class Task:
    """A task that a user requests for a text.

    `instruction` is used for the task alone; `continuation` is appended to a main task's instruction when an auxiliary
    task is composed with it. `variant` is the language or tone. `headline_metric` is the paper's metric for a main task.
    `criterion` is what a judge checks in the output.
    """

    name: str
    role: str
    instruction: str
    criterion: str
    variant: str | None = None
    continuation: str | None = None
    language: str = "en"
    headline_metric: str | None = None


@cache
def all_tasks() -> tuple[Task, ...]:
    """The tasks of every file in this folder."""
    modules = [importlib.import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__)]
    return tuple(task for module in modules for task in module.tasks())


def find_task(name: str, variant: str | None = None) -> Task:
    """The task of a given name and variant; raises UserError with the nearest names if there is none."""
    named = [task for task in all_tasks() if task.name == name]
    if not named:
        raise UserError(f"unknown task {name!r}: {nearest(name, {task.name for task in all_tasks()})}")
    for task in named:
        if task.variant == variant:
            return task
    known = ", ".join(task.variant or "none" for task in named)
    raise UserError(f"task {name} has no variant {variant!r}; its variants: {known}")
