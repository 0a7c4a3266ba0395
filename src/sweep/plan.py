"""What one sweep will run: every check that needs no model and no data, all mistakes reported together."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, fields, replace
from pathlib import Path

from src.arguments import parse_arguments
from src.errors import Mistakes, UserError
from src.flags import default_of
from src.judge.arguments import parse_judge_arguments
from src.preparation.arguments import parse_preparation_arguments
from src.sweep.arguments import Selection, SweepArguments
from src.sweep.cells import Choice
from src.sweep.profiles import Profile
from src.sweep.selection import choose
from src.sweep.steps import Step, make_steps


@dataclass(frozen=True)
class SweepPlan:
    """A sweep that holds together: its steps, and the command that makes a table of whatever they have done."""

    arguments: SweepArguments
    choice: Choice
    steps: list[Step]
    table: Step

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
    return SweepPlan(arguments, chosen, make_steps(chosen), _table_step(arguments, chosen))


def _table_step(arguments: SweepArguments, choice: Choice) -> Step:
    """`make_tables.py` with the sweep's selection."""
    words = ["python", "make_tables.py"]
    for field in fields(Selection):
        value = getattr(arguments, field.name)
        if field.name != "workspace" and value != default_of(field):
            words += [f"--{field.name}", *map(str, value if isinstance(value, list) else [value])]
    judge = ["--judge", choice.judge_name] if arguments.judge_flags and choice.judged else []
    return Step("table", (*words, *judge, "--workspace", choice.workspace), (), "table")


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
