"""Pocket: dialogues, replies and sentences from a grammar, in English, Spanish, French, German and four tones.

Sets: pocket_dialogs (summaries), pocket_replies, pocket_sentences_{es,fr,de} (translation),
pocket_sentences_{professional,casual,witty,paraphrase} (tone), and the 14 compositional ones,
pocket_dialogs_es ... pocket_replies_paraphrase. Licence: the project's. Splits: 8,000 / 250 / 250.
"""

from __future__ import annotations

from functools import partial

from src.data import Dataset, Example, Locations
from src.tasks import Task, all_tasks, find_task

_MAIN_TASKS = {"dialogs": "summarization", "replies": "reply"}


def datasets(locations: Locations) -> list[Dataset]:
    found = []
    auxiliary_tasks = [task for task in all_tasks() if task.role == "auxiliary"]
    for source, name in _MAIN_TASKS.items():
        main = find_task(name)
        found.append(_dataset(source, (main,), None))
        found += [_dataset(source, (main, task), task.variant) for task in auxiliary_tasks]
    return found + [_dataset("sentences", (task,), task.variant) for task in auxiliary_tasks]


def _dataset(source: str, tasks: tuple[Task, ...], variant: str | None) -> Dataset:
    own_inputs = f"pocket_{source}"
    name = f"{own_inputs}_{variant}" if variant else own_inputs
    return Dataset(name, tasks, own_inputs if len(tasks) == 2 else name, partial(_read, source, variant or "en"))


def _read(source: str, style: str, split: str) -> list[Example]:
    from src.pocket.examples import draw_examples
    from src.pocket.sentences import render_all

    return [
        Example(f"{split}_{number}", example.input, render_all(example.meaning, style))
        for number, example in enumerate(draw_examples(source, split))
    ]
