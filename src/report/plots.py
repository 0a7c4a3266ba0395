"""Plots of the main table: what a method reaches against what it costs a device."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from src.report.canvas import FAINT, draw_panels, percent
from src.report.collect import Outcome
from src.report.table import Column, Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MARKERS = "osD^vP*X"  # of the best methods, which the legend names; the others are grey


def storage_plot(table: Table, outcomes: list[Outcome]) -> str:
    """Quality against extra storage in KiB, as SVG; on a logarithmic axis, with a place of its own for methods that need none."""

    def storage(axes: Axes) -> None:
        axes.set_xscale("symlog", linthresh=0.1)
        axes.set_xlim(-0.03, 2 * axes.get_xlim()[1])
        axes.set_xlabel("extra storage on the device (KiB)")

    return _plot("storage", table, _mean_cost(outcomes, "extra_bytes", 1 / 1024), storage)


def inferences_plot(table: Table, outcomes: list[Outcome]) -> str:
    """Quality against inferences per example, as SVG."""

    def inferences(axes: Axes) -> None:
        axes.set_xlim(0.5, axes.get_xlim()[1] + 0.5)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_xlabel("inferences per example")

    return _plot("inferences", table, _mean_cost(outcomes, "inferences_per_example"), inferences)


def _mean_cost(outcomes: list[Outcome], name: str, unit: float = 1.0) -> dict[str, float]:
    """A cost by the row's label, the mean over its experiments."""
    found: dict[str, list[float]] = {}
    for one in outcomes:
        found.setdefault(one.cell.label, []).append(unit * one.results["cost"][name])
    return {label: float(np.mean(values)) for label, values in found.items()}


def _plot(name: str, table: Table, costs: dict[str, float], finish: Callable[[Axes], None]) -> str:
    """A panel per column of the headline metric, a point with its interval per method; the best over all columns have names."""
    named = _best(table)

    def draw(axes: Axes, column: Column) -> None:
        for label in sorted(table.rows, key=lambda one: one in named):
            if not (interval := table.rows[label][column].interval):
                continue
            number = named.index(label) if label in named else None
            mean, (below, above) = percent(interval)
            axes.errorbar(
                costs[label],
                mean,
                yerr=[[below], [above]],
                fmt="o" if number is None else _MARKERS[number],
                color=FAINT if number is None else f"C{number}",
                markersize=4 if number is None else 6,
                ecolor=FAINT,
                elinewidth=1,
                label="others" if number is None else label,
            )
        axes.set_title(f"{column.label} %")
        axes.set_ylim(bottom=0)
        finish(axes)

    return draw_panels(name, table.quality_columns, draw, shares_legend=True)


def _best(table: Table) -> list[str]:
    """The methods with the highest means over the columns that they have a figure in, as many as there are markers."""
    means = {}
    for label, entries in table.rows.items():
        there = [entry.interval.mean for column, entry in entries.items() if entry.interval and not column.judged]
        if there:
            means[label] = sum(there) / len(there)
    return sorted(means, key=lambda label: -means[label])[: len(_MARKERS)]
