"""The table of a sweep: methods as rows, compositional tasks as columns, means over models and languages or tones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum

import numpy as np

from compositional.paper import COMPOSITIONS, MAIN_BLOCK, paper_scores
from compositional.report.collect import Outcome
from compositional.scoring.bootstrap import Resampler, Strata, Stratum, statistic
from compositional.scoring.intervals import Interval, holm
from compositional.scoring.score import METRIC_LABELS
from compositional.sweep.selection import Cell
from compositional.tasks import find_task

SIGNIFICANT = 0.05
_USUAL_RESAMPLES = 10_000
_RESAMPLES_PER_COMPARISON = 100
_SHORT = {"summarization": "S", "reply": "R", "translation": "Tr", "tone_adjustment": "Tone"}


class Figure(Enum):
    """What a column shows of its experiments: the headline metric, the judge's share of yes, or the mean of its grades."""

    QUALITY = "quality"
    JUDGED = "LLM-J"
    GRADED = "grade"


@dataclass(frozen=True)
class Column:
    """A compositional task and one of its figures."""

    main: str
    auxiliary: str
    figure: Figure

    @property
    def label(self) -> str:
        """Heading of the column: composition and metric."""
        metric = METRIC_LABELS[find_task(self.main).headline_metric]
        return f"{self.composition} {metric if self.figure is Figure.QUALITY else self.figure.value}"

    @property
    def composition(self) -> str:
        """Heading shared by the columns of a compositional task."""
        return f"{_SHORT[self.main]}+{_SHORT[self.auxiliary]}"


@dataclass(frozen=True)
class Entry:
    """A method's figure in a column, between 0 and 1.

    `there` of `expected` experiments (sub-tasks, models, seeds) have the figure. `without_verdict` of their outputs have none from
    the judge and don't count. `better` than the reference method: True or False where the paired difference is significant among
    all of the table, else None. `place` among the column's methods, from 1. `paper` is the paper's figure, and `default_rouge` is
    ours by rouge_score's default tokenizer where `interval` is by another.
    """

    interval: Interval | None
    there: int
    expected: int
    without_verdict: int
    better: bool | None
    place: int | None
    paper: float | None
    default_rouge: float | None = None


@dataclass(frozen=True)
class Table:
    """A title, what it is a table of, entries by row label and column, and extra parameters by row.

    `correlations` are the rank correlations with the paper, by column. `compared` is the number of comparisons with the row
    `reference`, and `least_p` the least p value that one of them can have after Holm's correction. `one_seed` is whether all
    that was trained was trained with one seed.
    """

    title: str
    setting: str
    columns: list[Column]
    rows: dict[str, dict[Column, Entry]]
    correlations: dict[Column, float | None]
    extra_parameters: dict[str, float | None]
    reference: str
    compared: int
    least_p: float
    one_seed: bool

    @property
    def quality_columns(self) -> list[Column]:
        """The columns of the headline metrics, without the judge's."""
        return [column for column in self.columns if column.figure is Figure.QUALITY]

    @property
    def has_papers_figures(self) -> bool:
        """Whether any entry has a figure of the paper to compare with."""
        return any(entry.paper is not None for entries in self.rows.values() for entry in entries.values())

    @property
    def has_default_rouge(self) -> bool:
        """Whether any figure of the paper stands beside one of ours by rouge_score's default tokenizer."""
        entries = [entry for entries in self.rows.values() for entry in entries.values()]
        return any(entry.paper is not None and entry.default_rouge is not None for entry in entries)


def make_table(title: str, setting: str, cells: list[Cell], outcomes: list[Outcome], reference: str, resampler: Resampler) -> Table:
    """Put the outcomes together; what is missing stays missing. A mean is given only where all its sub-tasks are there."""
    columns = _columns(cells, outcomes)
    labels = list(dict.fromkeys(cell.label for cell in cells))
    rows: dict[str, dict[Column, Entry]] = {label: {} for label in labels}
    p_values: dict[tuple[str, Column], float] = {}
    for column in columns:
        strata = {label: _strata(label, column, outcomes) for label in labels}
        there = {label: sum(len(one.scores) for one in found.values()) for label, found in strata.items()}
        expected = {label: sum(cell.label == label and belongs(cell, column) for cell in cells) for label in labels}
        whole = {label: found for label, found in strata.items() if there[label] == expected[label]}
        places = {label: place for place, label in enumerate(sorted(whole, key=lambda one: -statistic(whole[one])), start=1)}
        for label in labels:
            if label != reference and {label, reference} <= whole.keys():
                p_values[label, column] = resampler.p_value(whole[label], whole[reference])
            rows[label][column] = Entry(
                resampler.interval(whole[label]) if label in whole else None,
                there[label],
                expected[label],
                sum(int(np.isnan(one.scores).sum()) for one in strata[label].values()),
                None,
                places.get(label),
                _paper_figure(label, column),
                _default_rouge(label, column, outcomes) if label in whole else None,
            )
    _mark(rows, p_values, reference)
    return Table(
        title,
        setting,
        columns,
        rows,
        correlations={column: _correlation({label: rows[label][column] for label in labels}) for column in columns},
        extra_parameters={label: _extra_parameters(label, outcomes) for label in labels},
        reference=reference,
        compared=len(p_values),
        least_p=min(1.0, len(p_values) * resampler.least_p),
        one_seed=len({cell.seed for cell in cells if cell.rests_on_training}) == 1,
    )


def resamples_for(cells: list[Cell], outcomes: list[Outcome]) -> int:
    """Bootstrap resamples with which a comparison of the table can be significant: its least p after Holm's correction is 0.02."""
    comparisons = (len({cell.label for cell in cells}) - 1) * len(_columns(cells, outcomes))
    return max(_USUAL_RESAMPLES, _RESAMPLES_PER_COMPARISON * comparisons)


def _columns(cells: list[Cell], outcomes: list[Outcome]) -> list[Column]:
    asked = {(cell.sub_task.main.name, cell.sub_task.auxiliary.name) for cell in cells}
    figures = [figure for figure in Figure if any(_values(outcome, figure) is not None for outcome in outcomes)]
    return [Column(*pair, figure) for pair in COMPOSITIONS if pair in asked for figure in figures]


def _mark(rows: dict[str, dict[Column, Entry]], p_values: dict[tuple[str, Column], float], reference: str) -> None:
    """Say of the entries that differ significantly from the reference row, among all comparisons, whether they are better."""
    for (label, column), p_value in zip(p_values, holm(list(p_values.values())), strict=True):
        if p_value < SIGNIFICANT:
            own, other = rows[label][column], rows[reference][column]
            rows[label][column] = replace(own, better=own.interval.mean > other.interval.mean)


def belongs(cell: Cell, column: Column) -> bool:
    """Whether an experiment is one of those behind a column."""
    return (cell.sub_task.main.name, cell.sub_task.auxiliary.name) == (column.main, column.auxiliary)


def _strata(label: str, column: Column, outcomes: list[Outcome]) -> Strata:
    """The scores of a row's experiments in a column, the seeds of a stratum together."""
    found: dict[str, list[Outcome]] = {}
    for one in outcomes:
        if one.cell.label == label and belongs(one.cell, column) and _values(one, column.figure) is not None:
            found.setdefault(one.cell.stratum, []).append(one)
    return {name: stratum_of(seeds, column.figure) for name, seeds in found.items()}


def stratum_of(seeds: list[Outcome], figure: Figure = Figure.QUALITY) -> Stratum:
    """The figures of a row's experiments on a sub-task with a model, one experiment for each seed."""
    return Stratum(np.stack([_values(one, figure) for one in seeds]), seeds[0].inputs, seeds[0].cell.training)


def _values(outcome: Outcome, figure: Figure) -> np.ndarray | None:
    """An experiment's figures (examples); None where it has none of the kind."""
    return {Figure.QUALITY: outcome.quality, Figure.JUDGED: outcome.judged, Figure.GRADED: outcome.graded}[figure]


def _paper_figure(label: str, column: Column) -> float | None:
    paper = paper_scores(label, column.main, column.auxiliary)
    if paper is None or column.figure is Figure.GRADED:  # the paper's judge gives no grades
        return None
    return (paper.judged_good if column.figure is Figure.JUDGED else paper.quality) / 100


def _default_rouge(label: str, column: Column, outcomes: list[Outcome]) -> float | None:
    """A row's headline metric by rouge_score's default tokenizer, a mean as in `statistic`; None where ours is by that one."""
    found: dict[str, list[float]] = {}
    for one in outcomes:
        if one.cell.label == label and belongs(one.cell, column) and one.default_rouge is not None:
            found.setdefault(one.cell.stratum, []).append(one.default_rouge)
    if column.figure is not Figure.QUALITY or found.keys() != _strata(label, column, outcomes).keys():
        return None
    return float(np.mean([np.mean(seeds) for seeds in found.values()])) if found else None


def _correlation(entries: dict[str, Entry]) -> float | None:
    """Spearman's, over the methods of the paper's main block; None when one of them is missing."""
    block = [entries.get(label) for label in MAIN_BLOCK]
    if any(entry is None or entry.interval is None or entry.paper is None for entry in block):
        return None
    ours = [entry.interval.mean for entry in block]
    return rank_correlation(ours, [entry.paper for entry in block]) if len(set(ours)) > 1 else None


def rank_correlation(ours: Sequence[float], papers: Sequence[float]) -> float:
    """Spearman's ρ of means; those that differ by an error of rounding alone are ties."""
    from scipy.stats import spearmanr

    return float(spearmanr(np.round(ours, 9), np.round(papers, 9)).statistic)


def _extra_parameters(label: str, outcomes: list[Outcome]) -> float | None:
    counts = [one.results["cost"]["extra_parameters"] for one in outcomes if one.cell.label == label]
    return float(np.mean(counts)) if counts else None
