"""The experiments of a table, by row, sub-task, model and seed."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field

from src.judge.arguments import parse_judge_arguments
from src.paper import LABELS
from src.sweep.ablations import Ablation
from src.sweep.methods import SHARED, Method, Naming, shared_name
from src.sweep.profiles import Profile
from src.sweep.subtasks import SubTask


@dataclass(frozen=True)
class Choice:
    """What a table consists of: the main one, or an `ablation`.

    `models` are base models by the ends of their experiments' names; None: the profile's own.
    """

    profile: Profile
    models: dict[str, str | None]
    sub_tasks: list[SubTask]
    methods: list[Method]
    shared: list[str] = field(default_factory=list)
    seeds: list[int] = field(default_factory=lambda: [0])
    judged: bool = True
    ablation: Ablation | None = None
    workspace: str = "."

    @property
    def judge_name(self) -> str:
        """The judge's name in the files of its verdicts."""
        return parse_judge_arguments(shlex.split(self.profile.flags("judge")))[0].judge_name

    @property
    def reference(self) -> str:
        """The row that others are compared with."""
        return self.ablation.reference if self.ablation else "Learnable Calibration++"

    def naming(self, model: str, seed: int = 0) -> Naming:
        """How experiments with a model and a seed are called; single-task adapters have no seed."""
        suffix = (f"_{model}" if model else "") + (f"_seed{seed}" if seed else "")
        return Naming("pocket_" if self.profile.benchmark == "pocket" else "", suffix)


@dataclass(frozen=True)
class Cell:
    """One experiment of a table, and the label of the row that it belongs to."""

    label: str
    sub_task: SubTask
    model: str
    seed: int
    experiment: str


def seeds_of(method: Method, choice: Choice) -> list[int]:
    """What is trained on composed examples is repeated with every seed, the rest is the same with each."""
    return choice.seeds if method.learns or method.trains else [0]


def cells(choice: Choice) -> list[Cell]:
    """Every experiment that predicts, row by row: the paper's rows in its order, then the others."""
    rows = [(method.label, method.name, seeds_of(method, choice)) for method in choice.methods]
    shared = {label: calibration for label, calibration in SHARED.items() if calibration in choice.shared}
    rows += [(label, shared_name(calibration, choice.sub_tasks), choice.seeds) for label, calibration in shared.items()]
    rows.sort(key=lambda row: LABELS.index(row[0]) if row[0] in LABELS else len(LABELS))
    return [
        Cell(label, one, model, seed, choice.naming(model, seed).experiment(one, name))
        for label, name, seeds in rows
        for one in choice.sub_tasks
        for model in choice.models
        for seed in seeds
    ]
