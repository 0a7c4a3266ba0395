"""The benchmark's 14 compositional sets: a main task's inputs, and its targets translated or changed in tone.

Only the targets change (the paper's later code base). A set is named after its main set and the language or tone: dialogsum_es.
"""

from __future__ import annotations

from compositional.data import Dataset, Locations, dialogsum, rewritten_set, synthetic_persona_chat
from compositional.tasks import all_tasks, find_task


def datasets(locations: Locations) -> list[Dataset]:
    auxiliary_tasks = [task for task in all_tasks() if task.role == "auxiliary"]
    return [
        rewritten_set(
            f"{main.NAME}_{task.variant}", (find_task(main.TASK), task), main.NAME, main.SOURCE, locations, main.read_source
        )
        for main in (dialogsum, synthetic_persona_chat)
        for task in auxiliary_tasks
    ]
