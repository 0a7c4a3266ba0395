"""What one sweep will run: every check that needs no model and no data, all mistakes reported together."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from compositional.core.errors import Mistakes, UserError
from compositional.core.flags import default_of, expanded, wrong_values
from compositional.experiment.arguments import parse_arguments
from compositional.judge.plan import parse_judge_arguments
from compositional.models.model import POCKET as POCKET_MODEL
from compositional.paper import LANGUAGES
from compositional.preparation.plan import parse_preparation_arguments
from compositional.sweep.arguments import Selection, SweepArguments
from compositional.sweep.benchmarks import Profile
from compositional.sweep.graph import make_steps
from compositional.sweep.project import is_another_elsewhere, working_folder
from compositional.sweep.rows import whole_path
from compositional.sweep.selection import Choice, choose
from compositional.sweep.steps import Kind, Step


@dataclass(frozen=True)
class SweepPlan:
    """A sweep that holds together."""

    arguments: SweepArguments
    choice: Choice
    steps: list[Step]

    @property
    def folder(self) -> Path:
        """Where the logs of the groups go."""
        return Path(self.choice.workspace) / "logs" / "sweep"

    def table(self, judged: bool = True) -> Step:
        """`make_tables.py` with the sweep's selection, of whatever is done; without a judge of one's own if nothing is `judged`."""
        words: list[str] = []
        for field in fields(Selection):
            value = getattr(self.arguments, field.name)
            if field.name != "workspace" and value != default_of(field):
                values = map(str, value if isinstance(value, list) else [value])
                words += [f"--{field.name}", *(whole_path(one) if one.endswith(".py") else one for one in values)]
        judge = ["--judge", self.choice.judge_name] if self.arguments.judge_flags and self.choice.judged and judged else []
        return Step(Kind.TABLE, "", (*words, *judge, "--workspace", self.choice.workspace), "table")


def make_sweep_plan(arguments: SweepArguments, parsing_mistakes: list[str]) -> SweepPlan:
    """Check a command; raises UserError with one line per mistake."""
    mistakes = Mistakes(parsing_mistakes)
    choice = choose(arguments, mistakes)
    mistakes += wrong_values(arguments)
    check_quoted_flags(arguments, choice, mistakes)
    folder = Path(arguments.workspace)
    mistakes.when(folder.exists() and not folder.is_dir(), f"--workspace {folder}: not a folder")
    mistakes.when(arguments.dry_run and bool(arguments.print_commands), "--dry_run contradicts --print_commands: use one of them")
    if mistakes:
        raise UserError(*dict.fromkeys(mistakes))
    chosen = replace(choice, profile=with_quoted_flags(choice.profile, arguments), judged=not arguments.no_judge)
    return SweepPlan(arguments, chosen, make_steps(chosen))


_PARSERS: dict[str, Callable[[list[str]], tuple[Any, list[str]]]] = {
    **dict.fromkeys(("experiment_flags", "single_task_flags", "joint_expert_flags", "learned_flags"), parse_arguments),
    "judge_flags": parse_judge_arguments,
    "data_flags": parse_preparation_arguments,
}
_OF_EVERY_COMMAND = ("--experiment_name", "--workspace", "--dataset", "--only", "--stage")
_OF_SEEDS = ("experiment_flags", "single_task_flags", "joint_expert_flags", "learned_flags")


def with_quoted_flags(profile: Profile, arguments: SweepArguments) -> Profile:
    """The profile with the command line's flags after its own, so that they count more."""
    flags = {name: shlex.join(_words(name, getattr(arguments, name))) for name in _PARSERS}
    last = flags.pop("experiment_flags")
    return replace(profile, own={name.removesuffix("_flags"): words for name, words in flags.items()}, last=last)


def check_quoted_flags(arguments: SweepArguments, choice: Choice, mistakes: Mistakes) -> None:
    """The flags must be those of their commands, be used by the sweep, and leave alone what it says itself."""
    for name, parse in _PARSERS.items():
        words = mistakes.attempt(_words, name, getattr(arguments, name))
        if not words:
            continue
        try:
            parsed, found = parse(words)
            found += _paths_from_elsewhere(parsed)
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


def _paths_from_elsewhere(arguments: Any) -> list[str]:
    """A message for each relative path in a command's flags that would be another where the command runs."""
    mistakes = []
    for field in fields(arguments):
        value, kind = getattr(arguments, field.name), field.metadata["path"]
        values = [one for one in (value if isinstance(value, list) else [value]) if kind and one and one != POCKET_MODEL]
        found = [one for one in values if any(is_another_elsewhere(path, kind) for path in _in_each_language(one))]
        mistakes += [f"--{field.name} {one}: name its whole path, as the commands run in {working_folder()}" for one in found]
    return mistakes


def _in_each_language(path: str) -> list[str]:
    return [path, *(path.replace("{language}", language) for language in LANGUAGES)]


def _words(name: str, text: str) -> list[str]:
    """The words of quoted flags, with those of their files."""
    try:
        return expanded(shlex.split(text))
    except (ValueError, UserError) as error:
        raise UserError(f"--{name} {text}: {error}") from error
