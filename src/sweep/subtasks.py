"""The benchmark's sub-tasks: which data sets and single-task adapters a composition of two tasks is made of."""

from __future__ import annotations

from dataclasses import dataclass

from src.tasks import Task, all_tasks, find_task

MAIN_SETS = {
    "paper": {"summarization": "dialogsum", "reply": "synthetic_persona_chat"},
    "pocket": {"summarization": "pocket_dialogs", "reply": "pocket_replies"},
}
AUXILIARY_SETS = {
    "paper": {"translation": "tedtalks", "tone_adjustment": "content_rephrasing"},
    "pocket": {"translation": "pocket_sentences", "tone_adjustment": "pocket_sentences"},
}
_SHORT_NAMES = {"summarization": "sum", "reply": "reply", "translation": "tr", "tone_adjustment": "tone"}


@dataclass(frozen=True)
class SubTask:
    """A main task composed with an auxiliary one, on a benchmark of `MAIN_SETS`."""

    benchmark: str
    main: Task
    auxiliary: Task

    @property
    def task(self) -> str:
        """The compositional task: sum_tr."""
        return f"{_SHORT_NAMES[self.main.name]}_{_SHORT_NAMES[self.auxiliary.name]}"

    @property
    def name(self) -> str:
        """As in the paper's experiment names: sum_tr_es."""
        return f"{self.task}_{self.auxiliary.variant}"

    @property
    def main_set(self) -> str:
        return MAIN_SETS[self.benchmark][self.main.name]

    @property
    def auxiliary_set(self) -> str:
        return f"{AUXILIARY_SETS[self.benchmark][self.auxiliary.name]}_{self.auxiliary.variant}"

    @property
    def composed_set(self) -> str:
        return f"{self.main_set}_{self.auxiliary.variant}"

    @property
    def flags(self) -> str:
        """What every experiment on the sub-task says."""
        variant = "tgt_lang" if self.auxiliary.name == "translation" else "tgt_tone"
        return (
            f"--dataset {self.main_set} --secondary_task {self.auxiliary.name} --{variant} {self.auxiliary.variant} "
            f"--secondary_task_dataset {self.composed_set}"
        )


def all_sub_tasks(benchmark: str) -> list[SubTask]:
    """The 14 sub-tasks, in the order of the paper's columns."""
    kinds = dict.fromkeys(task.name for task in all_tasks() if task.role == "auxiliary")
    return [
        SubTask(benchmark, find_task(main), task)
        for main in MAIN_SETS[benchmark]
        for kind in sorted(kinds, reverse=True)
        for task in all_tasks()
        if task.name == kind
    ]
