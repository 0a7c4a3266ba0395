r"""Put the results of a sweep together: the main table as Markdown, LaTeX, CSV and an HTML page with the examples side by side.

python make_tables.py --tasks sum_tr --languages es
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from src.command import exit_code_of
from src.errors import Mistakes, UserError, nearest
from src.files import write_text
from src.logs import log_to_screen
from src.report.arguments import parse_table_arguments
from src.sweep.cells import cells
from src.sweep.plan import choose
from src.workspace import Workspace

logger = logging.getLogger(__name__)


def run(argv: list[str]) -> None:
    """Write the table that a command line asks for; raises UserError for the user's mistakes."""
    arguments, found = parse_table_arguments(argv)
    mistakes = Mistakes(found)
    choice = choose(arguments, mistakes)
    asked = cells(choice)
    labels = list(dict.fromkeys(cell.label for cell in asked))
    for name in ("bootstrap_resamples", "examples"):
        mistakes.when(getattr(arguments, name) < 1, f"--{name} {getattr(arguments, name)}: must be at least 1")
    mistakes.when(arguments.bootstrap_seed < 0, f"--bootstrap_seed {arguments.bootstrap_seed}: must be at least 0")
    workspace = Workspace(Path(arguments.workspace))
    folder = Path(arguments.folder) if arguments.folder else workspace.root / "output" / "tables"
    mistakes.when(folder.exists() and not folder.is_dir(), f"--folder {folder}: not a folder")
    if mistakes:
        raise UserError(*mistakes)
    if arguments.reference not in labels and arguments.reference != "Learnable Calibration++":
        raise UserError(f"--reference {arguments.reference}: {nearest(arguments.reference, labels)}")

    from src.report.collect import collect
    from src.report.formats import to_csv, to_latex, to_markdown
    from src.report.page import to_html
    from src.report.plots import inferences_plot, storage_plot
    from src.report.statistics import Resampler
    from src.report.table import make_main_table

    judge = arguments.judge or ("pocket" if choice.profile.benchmark == "pocket" else "meta-llama--Llama-3.1-70B-Instruct")
    outcomes = collect(asked, workspace, arguments.stage, judge)
    if not outcomes:
        raise UserError(
            f"{workspace.root / 'output'} has no {arguments.stage} results of these experiments: run_sweep.py makes them"
        )
    if not any(outcome.judged is not None for outcome in outcomes):
        if arguments.judge:
            raise UserError(f"--judge {judge}: it has judged none of these experiments; llm_judge_eval.py does")
        logger.info("no verdicts of %s: --judge names another one", judge)
    resampler = Resampler(arguments.bootstrap_resamples, arguments.bootstrap_seed)
    table = make_main_table(asked, outcomes, arguments.reference, resampler)
    markdown = to_markdown(table)
    written = {"main.md": markdown, "main.tex": to_latex(table), "main.csv": to_csv(table)}
    written["main.html"] = to_html(table, outcomes, workspace, arguments.stage, arguments.examples)
    written["storage.svg"], written["inferences.svg"] = storage_plot(table, outcomes), inferences_plot(table, outcomes)
    for name, text in written.items():
        write_text(folder / name, text)
    logger.info("%s\n%s: %s; %d of %d experiments", markdown, folder, ", ".join(written), len(outcomes), len(asked))


if __name__ == "__main__":
    log_to_screen()
    sys.exit(exit_code_of(lambda: run(sys.argv[1:])))
