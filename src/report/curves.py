"""Curves: quality against a setting that an ablation varies, and losses against updates."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from src.report.canvas import FAINT, draw_panels, percent
from src.report.collect import Outcome
from src.report.table import Column, Table, belongs
from src.sweep.methods import Method

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Curve = tuple[np.ndarray, np.ndarray]


def setting_plot(name: str, table: Table, methods: list[Method], axis: str) -> str:
    """Quality with its intervals against the rows' values on a logarithmic axis, a line per series; as SVG."""

    def draw(axes: Axes, column: Column) -> None:
        for method in methods:
            entry = table.rows[method.label][column]
            if not method.series and entry.interval:
                axes.axhline(percent(entry.interval)[0], color=FAINT, linestyle="--", linewidth=1, label=method.label)
        for one in dict.fromkeys(method.series for method in methods if method.series):
            rows = [method for method in methods if method.series == one and table.rows[method.label][column].interval]
            points = [percent(table.rows[method.label][column].interval) for method in rows]
            means, spread = [mean for mean, _ in points], np.array([reach for _, reach in points]).reshape(-1, 2).T
            values = [method.value for method in rows]
            axes.errorbar(values, means, yerr=spread, marker="o", markersize=4, linewidth=1.2, elinewidth=0.8, label=one)
        ticks = sorted({method.value for method in methods if method.value})
        axes.set_xscale("log")
        axes.set_xticks(ticks, [f"{value:,}" for value in ticks])
        axes.minorticks_off()
        axes.set_xlabel(axis)
        axes.set_title(f"{column.label} %")

    return draw_panels(name, table.quality_columns, draw, shares_legend=True)


def training_plot(name: str, table: Table, outcomes: list[Outcome]) -> str | None:
    """Loss against updates of every row whose experiments are all there and trained, their mean and range; None: no row is."""
    curves = {
        column: {label: found for label in table.rows if (found := training_losses(label, column, table, outcomes))}
        for column in table.quality_columns
    }
    there = [column for column, found in curves.items() if found]
    labels = [label for label in table.rows if any(label in found for found in curves.values())]
    if not there:
        return None

    def draw(axes: Axes, column: Column) -> None:
        for label, (updates, losses) in curves[column].items():
            number = labels.index(label)
            color, style = f"C{number % 10}", ("-", "--", ":")[number // 10 % 3]
            axes.plot(updates, losses.mean(axis=0), color=color, linestyle=style, linewidth=1.2, label=label)
            axes.fill_between(updates, losses.min(axis=0), losses.max(axis=0), color=color, alpha=0.12, linewidth=0)
        axes.set_yscale("log")
        axes.set_xlabel("updates")
        axes.set_ylabel("loss (nats per target token)")
        axes.set_title(f"{column.composition}: mean and range")

    return draw_panels(name, there, draw, shares_legend=True)


def training_losses(label: str, column: Column, table: Table, outcomes: list[Outcome]) -> Curve | None:
    """(updates) that all of a row's experiments in a column have a loss of, and the losses (experiments × updates).

    None where one of the experiments is missing or was not trained, as those that take over a shared calibration.
    """
    own = [one for one in outcomes if one.cell.label == label and belongs(one.cell, column)]
    runs = [dict(map(tuple, losses)) for one in own if (losses := (one.results.get("training") or {}).get("losses"))]
    whole = len(runs) == table.rows[label][column].expected
    updates = sorted(set.intersection(*map(set, runs))) if runs and whole else []
    return (np.array(updates), np.array([[run[update] for update in updates] for run in runs])) if updates else None
