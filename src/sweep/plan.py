"""What one sweep will run: every check that needs no model and no data, all mistakes reported together."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path

from src.errors import Mistakes, UserError
from src.flags import default_of
from src.sweep.arguments import Selection, SweepArguments
from src.sweep.cells import Choice
from src.sweep.quoted_flags import check_quoted_flags, with_quoted_flags
from src.sweep.selection import choose
from src.sweep.steps import Step, make_steps


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
        words = ["python", "make_tables.py"]
        for field in fields(Selection):
            value = getattr(self.arguments, field.name)
            if field.name != "workspace" and value != default_of(field):
                values = map(str, value if isinstance(value, list) else [value])
                words += [f"--{field.name}", *(str(Path(one).resolve()) if one.endswith(".py") else one for one in values)]
        judge = ["--judge", self.choice.judge_name] if self.arguments.judge_flags and self.choice.judged and judged else []
        return Step("table", (*words, *judge, "--workspace", self.choice.workspace), (), "table")


def make_sweep_plan(arguments: SweepArguments, found_while_parsing: list[str]) -> SweepPlan:
    """Check a command; raises UserError with one line per mistake."""
    mistakes = Mistakes(found_while_parsing)
    choice = choose(arguments, mistakes)
    for name in ("gpus_per_task", "gpus_per_judge", "cpus_per_task"):
        value = getattr(arguments, name)
        mistakes.when(value is not None and value < 1, f"--{name} {value}: must be at least 1")
    check_quoted_flags(arguments, choice, mistakes)
    folder = Path(arguments.workspace)
    mistakes.when(folder.exists() and not folder.is_dir(), f"--workspace {folder}: not a folder")
    mistakes.when(arguments.dry_run and bool(arguments.print_commands), "--dry_run contradicts --print_commands: use one of them")
    if mistakes:
        raise UserError(*dict.fromkeys(mistakes))
    chosen = replace(choice, profile=with_quoted_flags(choice.profile, arguments), judged=not arguments.no_judge)
    return SweepPlan(arguments, chosen, make_steps(chosen))
