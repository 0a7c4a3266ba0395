"""A step of a sweep: what it does, what it needs and what it makes; and its text, for the command line."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum

from compositional.sweep.project import CHECKOUT


class Kind(Enum):
    """What a step does. Steps of one kind take about as long as each other."""

    PREPARE = "prepare"
    TRAIN = "train"  # a LoRA adapter
    LEARN = "learn"  # a merge or a calibration that learns from composed examples
    MERGE = "merge"  # without learning
    PREDICT = "predict"  # with what is stored already
    IN_CONTEXT = "in context"  # predict with examples in the prompt
    MULTI_STEP = "multi-step"  # predict in two passes
    JUDGE = "judge"
    TABLE = "table"

    @property
    def stores_adapter(self) -> bool:
        """Whether such a step leaves a stored adapter."""
        return self in (Kind.TRAIN, Kind.LEARN, Kind.MERGE)


class Contents(Enum):
    """What kinds of files steps leave to one another."""

    DATA_SET = "data set"
    ADAPTER = "adapter"
    PREDICTIONS = "predictions"
    VERDICTS = "verdicts"


@dataclass(frozen=True)
class Artefact:
    """A data set or a stored adapter by its name; predictions, or verdicts on them, by their experiment's."""

    contents: Contents
    name: str


@dataclass(frozen=True)
class Step:
    """One command. Steps of a `group` run in one process, one after the other, and share its engine.

    `experiment` is empty for preparing data and for the table. `flags` are the words after the program; those of judging come
    after the name of what is judged.
    """

    kind: Kind
    experiment: str
    flags: tuple[str, ...]
    group: str
    needs: tuple[Artefact, ...] = ()
    makes: tuple[Artefact, ...] = ()

    @property
    def name(self) -> str:
        """Unique within a sweep."""
        if self.kind is Kind.JUDGE:
            return f"judge {self.experiment}"
        return self.experiment or {Kind.PREPARE: "data"}.get(self.kind, self.kind.value)

    @property
    def predicts(self) -> bool:
        """Whether the step leaves predictions."""
        return any(one.contents is Contents.PREDICTIONS for one in self.makes)

    @property
    def words(self) -> tuple[str, ...]:
        """The words after the program."""
        return ("--experiment_name", self.experiment, *self.flags) if self.kind is Kind.JUDGE else self.flags

    def __str__(self) -> str:
        return _command(self.kind, self.words)


# Each program as a checkout runs it, and as the console command of an installed package.
_EXPERIMENT = ("python run_experiment.py", "run_experiment")
_PROGRAMS = {
    Kind.PREPARE: ("bash prepare_compositional_task_data.sh", "prepare_compositional_task_data"),
    Kind.JUDGE: ("python llm_judge_eval.py", "llm_judge_eval"),
    Kind.TABLE: ("python make_tables.py", "make_tables"),
}


def _command(kind: Kind, words: Iterable[str], in_checkout: bool | None = None) -> str:
    in_checkout = CHECKOUT is not None if in_checkout is None else in_checkout
    script, installed = _PROGRAMS.get(kind, _EXPERIMENT)
    return f"{script if in_checkout else installed} {shlex.join(words)}"


def judge_command(steps: Sequence[Step]) -> str:
    """One command in place of several steps that judge with the same flags: one engine for all that have predictions."""
    return _command(Kind.JUDGE, ("--experiment_name", *(step.experiment for step in steps), *steps[0].flags, "--skip_missing"))


def required_steps(steps: Sequence[Step]) -> dict[str, tuple[str, ...]]:
    """By each step's name, the names of the steps that make what it needs. Raises KeyError for what none of them makes."""
    makers = {artefact: step.name for step in steps for artefact in step.makes}
    return {step.name: tuple(dict.fromkeys(makers[artefact] for artefact in step.needs)) for step in steps}
