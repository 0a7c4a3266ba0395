r"""Put the results of a sweep together: a table as Markdown, LaTeX, CSV and an HTML page with plots and the examples side by side.

python make_tables.py --tasks sum_tr --languages es
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parent / "src"))

from compositional.core.errors import Mistakes, UserError, nearest
from compositional.core.files import write_text
from compositional.core.logs import log_to_screen
from compositional.core.processes import exit_code_of
from compositional.core.workspace import Workspace
from compositional.report.arguments import TableArguments, parse_table_arguments
from compositional.sweep.selection import Cell, Choice, cells, choose

if TYPE_CHECKING:
    from compositional.report.collect import Outcome
    from compositional.report.table import Table

logger = logging.getLogger(__name__)


def run(argv: list[str]) -> str:
    """Write the table that a command line asks for; returns where it is. Raises UserError for the user's mistakes."""
    arguments, mistakes = parse_table_arguments(argv)
    choice, asked, folder = _checked(arguments, mistakes)

    from compositional.report.formats import to_csv, to_latex, to_markdown
    from compositional.report.page import to_html
    from compositional.report.statistics import Resampler
    from compositional.report.table import make_table

    workspace = Workspace(Path(arguments.workspace))
    outcomes = _outcomes(arguments, choice, asked, workspace)
    title = choice.ablation.title if choice.ablation else "Compositional tasks, all methods"
    resampler = Resampler(arguments.bootstrap_resamples, arguments.bootstrap_seed)
    setting = _setting(arguments, choice, outcomes)
    table = make_table(title, setting, asked, outcomes, arguments.reference or choice.reference, resampler)
    plots = _plots(choice, table, outcomes)
    markdown, name = to_markdown(table), arguments.table + ("" if arguments.stage == "test" else f"_{arguments.stage}")
    written = {f"{name}.md": markdown, f"{name}.tex": to_latex(table), f"{name}.csv": to_csv(table)}
    written[f"{name}.html"] = to_html(table, plots, outcomes, workspace, arguments.stage, arguments.examples)
    written |= {f"{name}_{plot.replace(' ', '_')}.svg": svg for plot, svg in plots.items()}
    for file, text in written.items():
        write_text(folder / file, text)
    place = f"{folder}: {', '.join(written)}; {len(outcomes)} of {len(asked)} experiments"
    logger.info("%s\n%s", markdown, place)
    return place


def _checked(arguments: TableArguments, found: list[str]) -> tuple[Choice, list[Cell], Path]:
    """What the table consists of, its experiments and the folder that it goes to."""
    mistakes = Mistakes(found)
    choice = choose(arguments, mistakes)
    asked = cells(choice)
    labels = list(dict.fromkeys(cell.label for cell in asked))
    for name in ("bootstrap_resamples", "examples"):
        mistakes.when(getattr(arguments, name) < 1, f"--{name} {getattr(arguments, name)}: must be at least 1")
    mistakes.when(arguments.bootstrap_seed < 0, f"--bootstrap_seed {arguments.bootstrap_seed}: must be at least 0")
    folder = Path(arguments.folder) if arguments.folder else Path(arguments.workspace) / "output" / "tables"
    mistakes.when(folder.exists() and not folder.is_dir(), f"--folder {folder}: not a folder")
    if mistakes:
        raise UserError(*mistakes)
    if arguments.reference and arguments.reference not in labels:
        raise UserError(f"--reference {arguments.reference}: {nearest(arguments.reference, labels)}")
    return choice, asked, folder


def _outcomes(arguments: TableArguments, choice: Choice, asked: list[Cell], workspace: Workspace) -> list[Outcome]:
    from compositional.report.collect import collect

    judge = arguments.judge or choice.judge_name
    outcomes = collect(asked, workspace, arguments.stage, judge)
    if not outcomes:
        raise UserError(
            f"{workspace.root / 'output'} has no {arguments.stage} results of these experiments: run_sweep.py makes them"
        )
    if not any(outcome.judged is not None for outcome in outcomes):
        if arguments.judge:
            raise UserError(f"--judge {judge}: it has judged none of these experiments; llm_judge_eval.py does")
        logger.info("no verdicts of %s: --judge names another one", judge)
    return outcomes


def _setting(arguments: TableArguments, choice: Choice, outcomes: list[Outcome]) -> str:
    """The split, sub-tasks, models, seeds and judge of a table, in a sentence, and what its experiments don't have in common."""
    from compositional.report.collect import unlike_settings

    counts = sorted({len(one.ids) for one in outcomes})
    examples = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    parts = [
        f"{arguments.stage.capitalize()} split, {examples} examples of each of {', '.join(one.name for one in choice.sub_tasks)}",
        f"models: {', '.join(choice.models)}" if any(choice.models) else "base model: Pocket's",
        f"seeds of what is trained on composed examples: {', '.join(map(str, choice.seeds))}",
    ]
    if any(one.judged is not None for one in outcomes):
        parts.append(f"judge: {arguments.judge or choice.judge_name}")
    unlike = unlike_settings(outcomes, choice.ablation)
    return "; ".join(parts) + "." + (f" NOT MADE ALIKE: {'; '.join(unlike)}." if unlike else "")


def _plots(choice: Choice, table: Table, outcomes: list[Outcome]) -> dict[str, str]:
    """Plots as SVG, by name."""
    from compositional.report.plots import inferences_plot, setting_plot, storage_plot, training_plot

    plots = {"storage": storage_plot(table, outcomes), "inferences": inferences_plot(table, outcomes)}
    if choice.ablation:
        axis = choice.ablation.axis
        plots = {"quality": setting_plot("quality", table, choice.methods, axis)} if axis else {}
    training = training_plot("training", table, outcomes)
    return plots | ({"training": training} if training else {})


def main() -> int:
    """The command; returns its exit code."""
    log_to_screen()
    return exit_code_of(lambda: run(sys.argv[1:]))


if __name__ == "__main__":
    sys.exit(main())
