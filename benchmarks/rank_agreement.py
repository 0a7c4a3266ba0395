"""How the order of the methods agrees with the paper's, by column, and what a disagreement rests on.

    python -m benchmarks.rank_agreement --sub_tasks sum_tr_es sum_tone_casual reply_tr_de reply_tone_casual --seeds 0 1 2

Takes the flags of `make_tables.py`, of a main table that has been run. For each pair of tasks and each of the paper's figures
(headline metric, LLM judge's share of yes), prints Spearman's rho over the 16 rows of the paper's main block: with the mean over
all seeds, its least and largest value with one seed alone, and what it is when a row is left out, for the rows that move it most.
The paper's share of yes is also compared with the mean of Pocket's grades.

A second table says how far figures agree with each other in the same way: the metric with the judge, in the paper and here, and the
paper's figure of one pair of tasks with those of the others.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Callable

import numpy as np

from compositional.core.processes import exit_code_of
from compositional.core.tables import aligned
from compositional.paper import COMPOSITIONS, MAIN_BLOCK, PaperScores, paper_scores
from compositional.report.collect import Outcome, collect_outcomes
from compositional.report.plan import make_table_plan, parse_table_arguments
from compositional.report.table import rank_correlation

MOST_MOVING = 3
FIGURES: dict[str, tuple[Callable[[Outcome], np.ndarray | None], Callable[[PaperScores], float]]] = {
    "metric": (lambda one: one.quality, lambda paper: paper.quality),
    "yes": (lambda one: one.judged, lambda paper: paper.judged_good),
    "grade against the paper's yes": (lambda one: one.graded, lambda paper: paper.judged_good),
}


def run(argv: list[str]) -> None:
    """Print the tables; raises UserError for the user's mistakes."""
    outcomes = collect_outcomes(make_table_plan(*parse_table_arguments(argv)))
    seeds = sorted({one.cell.seed for one in outcomes})
    rows = [("tasks", "figure", "ρ", f"ρ of one of {len(seeds)} seeds", "ρ without a row")]
    for main, auxiliary in COMPOSITIONS:
        for name, (ours, papers) in FIGURES.items():
            found = means([one for one in outcomes if task_names(one) == (main, auxiliary)], ours)
            expected = {label: papers(paper_scores(label, main, auxiliary)) for label in MAIN_BLOCK}
            if not found.keys() >= expected.keys():
                continue
            alone = [agreement({label: one[seed] for label, one in found.items()}, expected) for seed in seeds]
            mean = {label: float(np.mean(list(one.values()))) for label, one in found.items()}
            left_out = {
                label: agreement(mean, {other: value for other, value in expected.items() if other != label}) for label in expected
            }
            rho = agreement(mean, expected)
            most = sorted(left_out, key=lambda label: -abs(left_out[label] - rho))[:MOST_MOVING]
            without = ", ".join(f"{label} {left_out[label]:.2f}" for label in most)
            rows.append((f"{main}, {auxiliary}", name, f"{rho:.2f}", f"{min(alone):.2f} to {max(alone):.2f}", without))
    print(f"{aligned(rows)}\n{aligned(_agreement_within(outcomes))}", end="")


def _agreement_within(outcomes: list[Outcome]) -> list[tuple[str, ...]]:
    """Rho of the metric with the judge, the paper's and ours, and of the paper's columns with each other, over the same rows."""
    figures = ("quality", "judged_good")
    papers = {
        (pair, figure): {label: getattr(paper_scores(label, *pair), figure) for label in MAIN_BLOCK}
        for pair in COMPOSITIONS
        for figure in figures
    }
    rows = [("tasks", "metric and judge: paper", "here", "metric and other tasks': paper", "judge and other tasks': paper")]
    for pair in COMPOSITIONS:
        of_pair = [one for one in outcomes if task_names(one) == pair]
        ours = [
            {label: float(np.mean(list(one.values()))) for label, one in means(of_pair, FIGURES[name][0]).items()}
            for name in ("metric", "yes")
        ]
        is_whole = all(one.keys() >= set(MAIN_BLOCK) for one in ours)
        others = [
            sorted(agreement(papers[other, figure], papers[pair, figure]) for other in COMPOSITIONS if other != pair)
            for figure in figures
        ]
        rows.append(
            (
                ", ".join(pair),
                f"{agreement(papers[pair, 'quality'], papers[pair, 'judged_good']):.2f}",
                f"{agreement(ours[0], {label: ours[1][label] for label in MAIN_BLOCK}):.2f}" if is_whole else "—",
                *(f"{found[0]:.2f} to {found[-1]:.2f}" for found in others),
            )
        )
    return rows


def task_names(outcome: Outcome) -> tuple[str, str]:
    """The main and the auxiliary task."""
    return outcome.cell.sub_task.main.name, outcome.cell.sub_task.auxiliary.name


def means(outcomes: list[Outcome], figure: Callable[[Outcome], np.ndarray | None]) -> dict[str, dict[int, float]]:
    """A row's mean over sub-tasks, by label and seed. A row that no seed changes has the same mean for each."""
    found: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for one in outcomes:
        if (values := figure(one)) is not None:
            found[one.cell.label][one.cell.seed].append(float(np.nanmean(values)))
    seeds = {seed for of_row in found.values() for seed in of_row}
    return {
        label: {seed: float(np.mean(of_row.get(seed) or next(iter(of_row.values())))) for seed in seeds}
        for label, of_row in found.items()
    }


def agreement(ours: dict[str, float], papers: dict[str, float]) -> float:
    """Spearman's rank correlation over the paper's rows."""
    return rank_correlation([ours[label] for label in papers], list(papers.values()))


if __name__ == "__main__":
    sys.exit(exit_code_of(lambda: run(sys.argv[1:])))
