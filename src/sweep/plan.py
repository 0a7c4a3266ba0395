"""What one sweep will run: every check that needs no model and no data, all mistakes reported together."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace
from pathlib import Path

from src.arguments import parse_arguments
from src.errors import Mistakes, UserError, nearest
from src.judge.arguments import parse_judge_arguments
from src.preparation.arguments import parse_preparation_arguments
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
    _check_flags(arguments, mistakes)
    folder = Path(arguments.workspace)
    mistakes.when(folder.exists() and not folder.is_dir(), f"--workspace {folder}: not a folder")
    mistakes.when(arguments.dry_run and bool(arguments.print_commands), "--dry_run contradicts --print_commands: use one of them")
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
    sub_tasks = _sub_tasks(selection, profile, mistakes)
    if len(sub_tasks) < 2:
        groups["paper"] = [name for name in groups["paper"] if name not in shared_names()]
        alone = [name for name in selection.methods if name in shared_names()]
        mistakes += [f"--methods {name}: there is one sub-task, and nothing to share a calibration with" for name in alone]
    asked = [name for word in selection.methods for name in groups.get(word, [word])]
    known = [*groups, *methods, *shared_names()]
    mistakes += [f"--methods {name}: {nearest(name, known)}" for name in asked if name not in known]
    mistakes.when(any(not 0 <= seed < 2**32 - 42 for seed in selection.seeds), "--seeds: must be at least 0 and below 2^32 - 42")
    mistakes.when(len(set(selection.seeds)) < len(selection.seeds), "--seeds: a seed stands there twice")
    return Choice(
        profile,
        models,
        sub_tasks,
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
    found = {name: str(Path(model).resolve()) if Path(model).is_dir() else model for name, model in found.items()}
    mistakes.when(len(found) < len(arguments.models), "--models: two of them end with the same name")
    return PAPER, found


def _sub_tasks(arguments: Selection, profile: Profile, mistakes: Mistakes) -> list[SubTask]:
    for flag, kind in (("languages", "translation"), ("tones", "tone_adjustment")):
        known = [task.variant for task in all_tasks() if task.name == kind]
        mistakes += [f"--{flag} {name}: {nearest(name, known)}" for name in getattr(arguments, flag) if name not in known]
    known = {one.name: one for one in all_sub_tasks(profile.benchmark)}
    if arguments.sub_tasks:
        mistakes += [f"--sub_tasks {name}: {nearest(name, known)}" for name in arguments.sub_tasks if name not in known]
        mistakes.when(len(set(arguments.sub_tasks)) < len(arguments.sub_tasks), "--sub_tasks: a sub-task stands there twice")
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
    """The profile with the command line's flags after its own, so that they count more."""
    own = {
        "data": arguments.data_flags,
        "single_task": arguments.single_task_flags,
        "joint_expert": arguments.joint_expert_flags,
        "learned": arguments.learned_flags,
        "judge": arguments.judge_flags,
    }
    return replace(profile, own=own, last=arguments.experiment_flags)


def _check_flags(arguments: SweepArguments, mistakes: Mistakes) -> None:
    """The flags in quotes must be flags of their commands, and leave alone what the sweep itself says."""
    parsers = dict.fromkeys(("experiment_flags", "single_task_flags", "joint_expert_flags", "learned_flags"), parse_arguments)
    parsers |= {"judge_flags": parse_judge_arguments, "data_flags": parse_preparation_arguments}
    for name, parse in parsers.items():
        words = mistakes.attempt(_words, name, getattr(arguments, name) or "")
        if not words:
            continue
        try:
            _, found = parse([word for word in words if not word.startswith("@")])
        except UserError as error:
            found = list(error.mistakes)
        mistakes += [f"--{name}: {mistake}" for mistake in found]
        own = [word for word in words if word.split("=")[0] in ("--experiment_name", "--workspace", "--dataset", "--only")]
        mistakes += [f"--{name}: {word} is the sweep's to say" for word in own]
