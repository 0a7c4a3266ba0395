"""Pocket: dialogues, replies and sentences from a grammar, in English, Spanish, French, German and four tones.

Sets: pocket_dialogs (summaries), pocket_replies, pocket_sentences_{es,fr,de} (translation),
pocket_sentences_{professional,casual,witty,paraphrase} (tone), the 14 compositional ones, pocket_dialogs_es ...
pocket_replies_paraphrase, and three of three tasks, pocket_dialogs_{es,fr,de}_casual.
"""

from __future__ import annotations

from functools import cache, partial
from typing import TYPE_CHECKING

from compositional.data import Dataset, Example, Locations, Reading, Source
from compositional.tasks import Task, all_tasks, find_task

if TYPE_CHECKING:
    from compositional.pocket.examples import MeaningExample

SOURCE = Source(
    title="Pocket's grammar",
    columns="input, reference",
    example="Tom: Good morning, André! ... Tom: I will cook a heavy soup at the market on Tuesday. ... → Tom will cook a heavy "
    "soup at the market this evening. André drew a strange camera in the garden on Tuesday.",
    licence="Apache 2.0, the project's",
    split_rule="by the slots of the events: no combination of slots of a test example occurs in training",
    rows={"train": 8000, "validation": 250, "test": 250},
)
_MAIN_TASKS = {"dialogs": "summarization", "replies": "reply"}


def datasets(locations: Locations) -> list[Dataset]:
    """All sets of Pocket: single tasks, two tasks, and three."""
    from compositional.pocket.lexicon import LANGUAGES, TONES

    found = []
    auxiliary_tasks = [task for task in all_tasks() if task.role == "auxiliary" and task.variant in (*LANGUAGES, *TONES)]
    for source, name in _MAIN_TASKS.items():
        main = find_task(name)
        found.append(_dataset(locations, source, (main,), None))
        found += [_dataset(locations, source, (main, task), task.variant) for task in auxiliary_tasks]
    casual = find_task("tone_adjustment", "casual")
    translations = [task for task in auxiliary_tasks if task.name == "translation"]
    found += [
        _dataset(locations, "dialogs", (find_task("summarization"), task, casual), f"{task.variant}_casual")
        for task in translations
    ]
    return found + [_dataset(locations, "sentences", (task,), task.variant) for task in auxiliary_tasks]


def _dataset(locations: Locations, source: str, tasks: tuple[Task, ...], variant: str | None) -> Dataset:
    own_inputs = f"pocket_{source}"
    name = f"{own_inputs}_{variant}" if variant else own_inputs
    # A text model changes English by one task; targets of three tasks come from the grammar as they are.
    rewritten = variant is not None and len(tasks) < 3
    return Dataset(
        name,
        tasks,
        own_inputs if len(tasks) > 1 else name,
        SOURCE,
        folder=locations.prepared / name,
        read_source=lambda split: Reading(_examples(source, "en" if rewritten else variant or "en", split)),
        generate=partial(_examples, source, variant or "en"),
        rewritten=rewritten,
        benchmark="pocket",
    )


def _examples(source: str, style: str, split: str) -> list[Example]:
    from compositional.pocket.sentences import render_all

    return [
        Example(f"{split}_{number}", example.input, render_all(example.meaning, style))
        for number, example in enumerate(_drawn(source, split))
    ]


@cache
def _drawn(source: str, split: str) -> tuple[MeaningExample, ...]:
    from compositional.pocket.examples import draw_examples

    return tuple(draw_examples(source, split))
