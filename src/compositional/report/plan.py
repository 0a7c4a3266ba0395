"""What one table will be made of: every check that needs no results, all mistakes reported together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from compositional.core.errors import Mistakes, UserError, nearest
from compositional.core.workspace import Workspace
from compositional.report.arguments import TableArguments
from compositional.sweep.selection import Cell, Choice, cells, choose


@dataclass(frozen=True)
class TablePlan:
    """A table that holds together: its experiments, and the folder that it is written to."""

    arguments: TableArguments
    choice: Choice
    cells: list[Cell]
    folder: Path

    @property
    def workspace(self) -> Workspace:
        return Workspace(Path(self.arguments.workspace))

    @property
    def title(self) -> str:
        return self.choice.ablation.title if self.choice.ablation else "Compositional tasks, all methods"

    @property
    def name(self) -> str:
        """What its files' names begin with."""
        return self.arguments.table + ("" if self.arguments.stage == "test" else f"_{self.arguments.stage}")

    @property
    def judge(self) -> str:
        return self.arguments.judge or self.choice.judge_name

    @property
    def reference(self) -> str:
        """The label of the row that the others are compared with."""
        return self.arguments.reference or self.choice.reference


def make_table_plan(arguments: TableArguments, found_while_parsing: Sequence[str] = ()) -> TablePlan:
    """Check a command; raises UserError with one line per mistake."""
    mistakes = Mistakes(found_while_parsing)
    choice = choose(arguments, mistakes)
    for name in ("bootstrap_resamples", "examples"):
        mistakes.when(getattr(arguments, name) < 1, f"--{name} {getattr(arguments, name)}: must be at least 1")
    mistakes.when(arguments.bootstrap_seed < 0, f"--bootstrap_seed {arguments.bootstrap_seed}: must be at least 0")
    folder = Path(arguments.folder) if arguments.folder else Path(arguments.workspace) / "output" / "tables"
    mistakes.when(folder.exists() and not folder.is_dir(), f"--folder {folder}: not a folder")
    if mistakes:
        raise UserError(*mistakes)
    chosen = cells(choice)
    labels = list(dict.fromkeys(cell.label for cell in chosen))
    if arguments.reference and arguments.reference not in labels:
        raise UserError(f"--reference {arguments.reference}: {nearest(arguments.reference, labels)}")
    return TablePlan(arguments, choice, chosen, folder)
