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

_COLOR = "#2b5fb3"
# Names of the best methods of a panel, those that have room: so many percent below better ones at nearly the same cost.
_NAMES = 6
_ROOM = 3.0
_NEARLY = 1.5
_ABOVE, _BELOW = (5, 3), (5, -9)


def storage_plot(table: Table, outcomes: list[Outcome]) -> str:
    """Quality against extra storage in KiB, as SVG; on a logarithmic axis, with a place of its own for methods that need none."""

    def storage(axes: Axes) -> None:
        axes.set_xscale("symlog", linthresh=0.1)
        axes.set_xlim(left=-0.03)
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
    """A panel per column of the headline metric, a point with its interval per method."""

    def draw(axes: Axes, column: Column) -> None:
        there = {label: entries[column].interval for label, entries in table.rows.items() if entries[column].interval}
        named = _named({label: (costs[label], 100 * interval.mean) for label, interval in there.items()})
        for label, interval in there.items():
            mean, (below, above) = percent(interval)
            spread = [[below], [above]]
            axes.errorbar(costs[label], mean, yerr=spread, fmt="o", markersize=4, color=_COLOR, ecolor=FAINT, elinewidth=1)
            if label in named:
                axes.annotate(label, (costs[label], mean), xytext=named[label], textcoords="offset points", fontsize=7)
        axes.set_title(f"{column.label} %")
        axes.set_ylim(bottom=0)
        finish(axes)

    return draw_panels(name, table.quality_columns, draw)


def _named(points: dict[str, tuple[float, float]]) -> dict[str, tuple[int, int]]:
    """Where the names of methods stand beside their points, by their cost and quality in percent.

    Of two points that are near each other, the lower one's name stands below it; of more, the best two are named.
    """
    named: dict[str, tuple[int, int]] = {}
    for label, (cost, quality) in sorted(points.items(), key=lambda item: -item[1][1]):
        better = [points[other] for other in named]
        near = [one for one in better if one[1] - quality < _ROOM and max(one[0], cost) <= _NEARLY * min(one[0], cost)]
        if len(near) < 2 and len(named) < _NAMES:
            named[label] = _BELOW if near else _ABOVE
    return named
