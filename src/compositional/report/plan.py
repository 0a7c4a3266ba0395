"""The flags of `make_tables.py`, and what one table will be made of, checked before any result is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from compositional.core.errors import Mistakes, UserError, nearest
from compositional.core.flags import COUNT, NOT_NEGATIVE, build_parser, flag, parse, wrong_values
from compositional.core.workspace import Workspace, why_unwritable
from compositional.sweep.arguments import Selection
from compositional.sweep.selection import Cell, Choice, cells, choose


@dataclass
class TableArguments(Selection):
    """Which experiments' results are put together, and where the table goes."""

    stage: str = flag("test", "table", "split whose results are shown", choices=("valid", "test"))
    judge: str | None = flag(None, "table", "the judge's name in judge_<name>.json; default: pocket, or the default judge's")
    reference: str | None = flag(
        None,
        "table",
        "row that the others are compared with by the paired bootstrap; default: LC++, in an ablation with its usual setting",
    )
    bootstrap_resamples: int | None = flag(
        None,
        "table",
        "bootstrap resamples behind intervals and comparisons; default: 10000, or 100 for each comparison if these are more",
        range=COUNT,
    )
    bootstrap_seed: int = flag(0, "table", "seed of the resampling", range=NOT_NEGATIVE)
    examples: int = flag(50, "table", "examples of each sub-task on the HTML page", range=COUNT)
    folder: str | None = flag(None, "table", "where the table is written; default: output/tables in the workspace")


def parse_table_arguments(argv: list[str]) -> tuple[TableArguments, list[str]]:
    """Parse a command line of `make_tables.py`; see `flags.parse`."""
    description = "Put the results of a sweep's experiments together: Markdown, LaTeX, CSV and an HTML page."
    return parse(build_parser(TableArguments, "make_tables.py", description), TableArguments, argv)


@dataclass(frozen=True)
class TablePlan:
    """A table that holds together: its experiments, and the folder that it is written to."""

    arguments: TableArguments
    choice: Choice
    cells: list[Cell]
    folder: Path

    @property
    def workspace(self) -> Workspace:
        """The folder that holds the experiments' results."""
        return Workspace(Path(self.arguments.workspace))

    @property
    def title(self) -> str:
        """What it is a table of."""
        return self.choice.ablation.title if self.choice.ablation else "Compositional tasks, all methods"

    @property
    def name(self) -> str:
        """What its files' names begin with."""
        return self.arguments.table + ("" if self.arguments.stage == "test" else f"_{self.arguments.stage}")

    @property
    def judge(self) -> str:
        """The name of the judge whose verdicts it shows."""
        return self.arguments.judge or self.choice.judge_name

    @property
    def reference(self) -> str:
        """The label of the row that the others are compared with."""
        return self.arguments.reference or self.choice.reference


def make_table_plan(arguments: TableArguments, parsing_mistakes: Sequence[str] = ()) -> TablePlan:
    """Check a command; raises UserError with one line per mistake."""
    mistakes = Mistakes(parsing_mistakes)
    choice = choose(arguments, mistakes)
    mistakes += wrong_values(arguments)
    folder = Path(arguments.folder) if arguments.folder else Path(arguments.workspace) / "output" / "tables"
    if fault := why_unwritable(folder):
        mistakes.append(f"{'--folder' if arguments.folder else '--workspace'} {arguments.folder or arguments.workspace}: {fault}")
    if mistakes:
        raise UserError(*mistakes)
    chosen = cells(choice)
    labels = list(dict.fromkeys(cell.label for cell in chosen))
    if arguments.reference and arguments.reference not in labels:
        raise UserError(f"--reference {arguments.reference}: {nearest(arguments.reference, labels)}")
    return TablePlan(arguments, choice, chosen, folder)
