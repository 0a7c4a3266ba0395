"""The flags of `make_tables.py`: what the table consists of, as `run_sweep.py` says it, and how it is made."""

from __future__ import annotations

from dataclasses import dataclass

from compositional.core.flags import build_parser, flag, parse
from compositional.sweep.arguments import Selection


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
    bootstrap_resamples: int = flag(1000, "table", "bootstrap resamples behind intervals and comparisons")
    bootstrap_seed: int = flag(0, "table", "seed of the resampling")
    examples: int = flag(50, "table", "examples of each sub-task on the HTML page")
    folder: str | None = flag(None, "table", "where the table is written; default: output/tables in the workspace")


def parse_table_arguments(argv: list[str]) -> tuple[TableArguments, list[str]]:
    """Parse a command line of `make_tables.py`; see `flags.parse`."""
    description = "Put the results of a sweep's experiments together: Markdown, LaTeX, CSV and an HTML page."
    return parse(build_parser(TableArguments, "make_tables.py", description), TableArguments, argv)
