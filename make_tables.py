r"""Put the results of a sweep together: a table as Markdown, LaTeX, CSV and an HTML page with plots and the examples side by side.

python make_tables.py --tasks sum_tr --languages es
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "src"))

from compositional.core.files import write_text
from compositional.core.logs import log_to_screen
from compositional.core.processes import exit_code_of
from compositional.report.plan import make_table_plan, parse_table_arguments

logger = logging.getLogger(__name__)


def run(argv: list[str]) -> str:
    """Write the table that a command line asks for; returns where it is. Raises UserError for the user's mistakes."""
    arguments, mistakes = parse_table_arguments(argv)
    plan = make_table_plan(arguments, mistakes)

    from compositional.report.collect import collect_outcomes, describe
    from compositional.report.formats import to_csv, to_latex, to_markdown
    from compositional.report.page import to_html
    from compositional.report.plots import all_plots
    from compositional.report.table import make_table, resamples_for
    from compositional.scoring.bootstrap import Resampler

    outcomes = collect_outcomes(plan)
    resamples = arguments.bootstrap_resamples or resamples_for(plan.cells, outcomes)
    resampler = Resampler(resamples, arguments.bootstrap_seed)
    table = make_table(plan.title, describe(plan, outcomes), plan.cells, outcomes, plan.reference, resampler)
    plots = all_plots(table, outcomes, plan.choice.ablation, plan.choice.rows)
    page = to_html(table, plots, outcomes, plan.workspace, arguments.stage, arguments.examples)
    markdown = to_markdown(table)
    files = {".md": markdown, ".tex": to_latex(table), ".csv": to_csv(table), ".html": page}
    files |= {f"_{plot}.svg": svg for plot, svg in plots.items()}
    for ending, text in files.items():
        write_text(plan.folder / f"{plan.name}{ending}", text)
    names = ", ".join(f"{plan.name}{ending}" for ending in files)
    place = f"{plan.folder}: {names}; {len(outcomes)} of {len(plan.cells)} experiments"
    logger.info("%s\n%s", markdown, place)
    return place


def main() -> int:
    """The command; returns its exit code."""
    log_to_screen()
    return exit_code_of(lambda: run(sys.argv[1:]))


if __name__ == "__main__":
    sys.exit(main())
