"""Flags in quotes: what `run_sweep.py` hands on to the commands that it runs."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from src.arguments import parse_arguments
from src.errors import Mistakes, UserError
from src.judge.arguments import parse_judge_arguments
from src.preparation.arguments import parse_preparation_arguments
from src.sweep.arguments import SweepArguments
from src.sweep.cells import Choice
from src.sweep.profiles import Profile

_PARSERS: dict[str, Callable[[list[str]], tuple[Any, list[str]]]] = {
    **dict.fromkeys(("experiment_flags", "single_task_flags", "joint_expert_flags", "learned_flags"), parse_arguments),
    "judge_flags": parse_judge_arguments,
    "data_flags": parse_preparation_arguments,
}
_OF_EVERY_COMMAND = ("--experiment_name", "--workspace", "--dataset", "--only", "--stage")
_OF_SEEDS = ("experiment_flags", "joint_expert_flags", "learned_flags")


def with_quoted_flags(profile: Profile, arguments: SweepArguments) -> Profile:
    """The profile with the command line's flags after its own, so that they count more."""
    own = {
        "data": arguments.data_flags,
        "single_task": arguments.single_task_flags,
        "joint_expert": arguments.joint_expert_flags,
        "learned": arguments.learned_flags,
        "judge": arguments.judge_flags,
    }
    return replace(profile, own=own, last=arguments.experiment_flags)


def check_quoted_flags(arguments: SweepArguments, choice: Choice, mistakes: Mistakes) -> None:
    """The flags must be those of their commands, be used by the sweep, and leave alone what it says itself."""
    for name, parse in _PARSERS.items():
        words = mistakes.attempt(_words, name, getattr(arguments, name))
        if not words:
            continue
        try:
            _, found = parse([word for word in words if not word.startswith("@")])
        except UserError as error:
            found = list(error.mistakes)
        mistakes += [f"--{name}: {mistake}" for mistake in found]
        flags = [word.split("=")[0] for word in words]
        mistakes += [f"--{name}: {flag} is the sweep's to say" for flag in flags if flag in _OF_EVERY_COMMAND]
        if name in ("experiment_flags", "learned_flags"):
            varied = choice.ablation.varies if choice.ablation else ()
            mistakes += [f"--{name}: {flag} is what --table {arguments.table} varies" for flag in flags if flag in varied]
        if any(choice.seeds) and name in _OF_SEEDS:
            mistakes += [f"--{name}: {flag} contradicts --seeds" for flag in flags if flag in ("--seed", "--data_seed")]
    unused = {
        "data_flags": (choice.profile.benchmark == "pocket", "Pocket's data are made as they are read"),
        "judge_flags": (arguments.no_judge, "--no_judge judges nothing"),
        "joint_expert_flags": (choice.ablation is not None, f"--table {arguments.table} has no joint expert"),
    }
    mistakes += [f"--{name}: {why}" for name, (wrong, why) in unused.items() if wrong and getattr(arguments, name)]


def _words(name: str, text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise UserError(f"--{name} {text}: {error}") from error
