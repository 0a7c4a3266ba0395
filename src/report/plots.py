"""Plots of the main table: what a method reaches against what it costs a device."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from src.report.collect import Outcome
from src.report.table import Column, MainTable

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_INK, _FAINT, _COLORS = "#1c2330", "#8a93a5", ("#2b5fb3", "#c2571a", "#1a7f4b", "#8b3fa0")
_LABELLED = 6  # methods of a panel, the best: the names of all would lie over one another


def storage_plot(table: MainTable, outcomes: list[Outcome]) -> str:
    """Quality against extra storage in KiB, as SVG; on a logarithmic axis, with a place of its own for methods that need none."""

    def storage(axes: Axes) -> None:
        axes.set_xscale("symlog", linthresh=0.1)
        axes.set_xlim(left=-0.03)
        axes.set_xlabel("extra storage on the device (KiB)")

    return _plot(table, _mean_cost(outcomes, "extra_bytes", 1 / 1024), storage)


def inferences_plot(table: MainTable, outcomes: list[Outcome]) -> str:
    """Quality against inferences per example, as SVG."""

    def inferences(axes: Axes) -> None:
        axes.set_xlim(0.5, axes.get_xlim()[1] + 0.5)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_xlabel("inferences per example")

    return _plot(table, _mean_cost(outcomes, "inferences_per_example"), inferences)


def _mean_cost(outcomes: list[Outcome], name: str, unit: float = 1.0) -> dict[str, float]:
    """A cost by the row's label, the mean over its experiments."""
    found: dict[str, list[float]] = {}
    for one in outcomes:
        found.setdefault(one.cell.label, []).append(unit * one.results["cost"][name])
    return {label: float(np.mean(values)) for label, values in found.items()}


def _plot(table: MainTable, costs: dict[str, float], finish: Callable[[Axes], None]) -> str:
    """A panel per column of the headline metric, a point with its interval per method."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    columns = [column for column in table.columns if not column.judged]
    # Equal tables give equal files.
    with pyplot.rc_context({"font.size": 9, "svg.hashsalt": "table", "svg.fonttype": "none", "text.color": _INK}):
        figure, panels = pyplot.subplots(1, len(columns), figsize=(5.4 * len(columns), 4), squeeze=False, layout="constrained")
        for axes, column, color in zip(panels[0], columns, _COLORS, strict=False):
            _draw(axes, table, column, costs, color)
            finish(axes)
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
        pyplot.close(figure)
    return out.getvalue()


def _draw(axes: Axes, table: MainTable, column: Column, costs: dict[str, float], color: str) -> None:
    there = {label: entries[column].interval for label, entries in table.rows.items() if entries[column].interval}
    labelled = sorted(there, key=lambda label: -there[label].mean)[:_LABELLED]
    for label, interval in there.items():
        mean, spread = 100 * interval.mean, [[100 * (interval.mean - interval.low)], [100 * (interval.high - interval.mean)]]
        axes.errorbar(costs[label], mean, yerr=spread, fmt="o", markersize=4, color=color, ecolor=_FAINT, elinewidth=1)
        if label in labelled:
            axes.annotate(label, (costs[label], mean), xytext=(5, 3), textcoords="offset points", fontsize=7)
    axes.set_title(f"{column.label} %")
    axes.set_ylim(bottom=0)
    axes.grid(axis="y", linewidth=0.4)
    axes.spines[["top", "right"]].set_visible(False)
