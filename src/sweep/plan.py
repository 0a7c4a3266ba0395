"""What one sweep will run: every check that needs no model and no data, all mistakes reported together."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace
from pathlib import Path

from src.errors import Mistakes, UserError, nearest
from src.sweep.arguments import Selection, SweepArguments
from src.sweep.cells import Choice
from src.sweep.methods import OWN_METHODS, PAPER_METHODS
from src.sweep.profiles import PAPER, PAPER_MODELS, POCKET, Profile
from src.sweep.steps import Step, make_steps, shared_names
from src.sweep.subtasks import SubTask, all_sub_tasks
from src.tasks import all_tasks

# The commands are run from the project's folder, whose configs/ they name.
PROJECT = Path(__file__).parents[2]


@dataclass(frozen=True)
class SweepPlan:
    """A sweep that holds together."""

    arguments: SweepArguments
    choice: Choice
    steps: list[Step]

    @property
    def folder(self) -> Path:
        """Where the logs of the groups go."""
        return Path(self.arguments.workspace) / "logs" / "sweep"


def make_sweep_plan(arguments: SweepArguments, found_while_parsing: list[str]) -> SweepPlan:
    """Check a command; raises UserError with one line per mistake."""
    mistakes = Mistakes(found_while_parsing)
    choice = choose(arguments, mistakes)
    for name in ("gpus_per_task", "gpus_per_judge", "cpus_per_task"):
        value = getattr(arguments, name)
        mistakes.when(value is not None and value < 1, f"--{name} {value}: must be at least 1")
    for name in ("experiment_flags", "single_task_flags", "joint_expert_flags", "learned_flags", "data_flags", "judge_flags"):
        mistakes.attempt(_words, name, getattr(arguments, name) or "")
    if mistakes:
        raise UserError(*dict.fromkeys(mistakes))
    profile = _with_own_flags(choice.profile, arguments)
    chosen = replace(choice, profile=profile, judged=not arguments.no_judge)
    return SweepPlan(arguments, chosen, make_steps(chosen))


def choose(selection: Selection, mistakes: Mistakes) -> Choice:
    """The experiments that are selected; what is wrong with the selection is added to the mistakes."""
    profile, models = _models(selection, mistakes)
    methods = {method.name: method for method in (*PAPER_METHODS, *OWN_METHODS)}
    groups = {
        "paper": [*(method.name for method in PAPER_METHODS), *shared_names()],
        "own": [method.name for method in OWN_METHODS],
    }
    asked = [name for word in selection.methods for name in groups.get(word, [word])]
    known = [*groups, *methods, *shared_names()]
    mistakes += [f"--methods {name}: {nearest(name, known)}" for name in asked if name not in known]
    mistakes.when(any(seed < 0 for seed in selection.seeds), "--seeds: must be at least 0")
    mistakes.when(len(set(selection.seeds)) < len(selection.seeds), "--seeds: a seed stands there twice")
    return Choice(
        profile,
        models,
        _sub_tasks(selection, profile, mistakes),
        [method for name, method in methods.items() if name in asked],
        [calibration for name, calibration in shared_names().items() if name in asked],
        selection.seeds,
        workspace=selection.workspace if Path.cwd() == PROJECT else str(Path(selection.workspace).resolve()),
    )


def _models(arguments: Selection, mistakes: Mistakes) -> tuple[Profile, dict[str, str | None]]:
    """The benchmark, and the base models by the ends of their experiments' names."""
    if arguments.models == ["pocket"]:
        return POCKET, {"": None}
    mistakes.when("pocket" in arguments.models, "--models: pocket has data of its own, and stands alone")
    found = {name if name in PAPER_MODELS else Path(name).name: PAPER_MODELS.get(name, name) for name in arguments.models}
    mistakes.when(len(found) < len(arguments.models), "--models: two of them end with the same name")
    return PAPER, found


def _sub_tasks(arguments: Selection, profile: Profile, mistakes: Mistakes) -> list[SubTask]:
    for flag, kind in (("languages", "translation"), ("tones", "tone_adjustment")):
        known = [task.variant for task in all_tasks() if task.name == kind]
        mistakes += [f"--{flag} {name}: {nearest(name, known)}" for name in getattr(arguments, flag) if name not in known]
    known = {one.name: one for one in all_sub_tasks(profile.benchmark)}
    if arguments.sub_tasks:
        mistakes += [f"--sub_tasks {name}: {nearest(name, known)}" for name in arguments.sub_tasks if name not in known]
        return [known[name] for name in arguments.sub_tasks if name in known]
    variants = {*arguments.languages, *arguments.tones}
    chosen = [one for one in known.values() if one.task in arguments.tasks and one.auxiliary.variant in variants]
    mistakes.when(not (chosen or mistakes), "--tasks, --languages and --tones leave no sub-task")
    return chosen


def _words(name: str, text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise UserError(f"--{name} {text}: {error}") from error


def _with_own_flags(profile: Profile, arguments: SweepArguments) -> Profile:
    given = {
        "single_task": arguments.single_task_flags,
        "joint_expert": arguments.joint_expert_flags,
        "learned": arguments.learned_flags,
        "judge": arguments.judge_flags,
    }
    replaced = {name: flags for name, flags in given.items() if flags is not None}
    common = f"{profile.common} {arguments.experiment_flags}"
    return replace(profile, data=arguments.data_flags, common=common, **replaced)
