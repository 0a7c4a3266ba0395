"""Plots of a table as SVG: quality against cost or against a setting, and losses against updates."""

from __future__ import annotations

import importlib.util
import io
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from compositional.core.errors import first_line
from compositional.report.collect import Outcome
from compositional.report.table import Column, Figure, Table, belongs
from compositional.scoring.intervals import Interval
from compositional.sweep.ablations import Ablation
from compositional.sweep.rows import TableRow

if TYPE_CHECKING:
    from matplotlib.axes import Axes

logger = logging.getLogger(__name__)

FAINT = "#8a93a5"
_INK = "#1c2330"


def _import_matplotlib() -> None:
    """Import Matplotlib with its own settings: it fails on import for a backend or a settings file of the user's that is broken."""
    folder = Path(importlib.util.find_spec("matplotlib").origin).parent
    own = {"MPLBACKEND": "svg", "MATPLOTLIBRC": str(folder / "mpl-data" / "matplotlibrc")}
    users = {name: os.environ.get(name) for name in own}
    os.environ.update(own)
    try:
        import matplotlib  # noqa: F401
    finally:
        for name, value in users.items():
            os.environ.pop(name)
            os.environ.update({} if value is None else {name: value})


def draw_panels(name: str, columns: list[Column], draw: Callable[[Axes, Column], None], shares_legend: bool = False) -> str:
    """Let `draw` fill a panel per column. A legend that they share stands below; equal tables give equal files."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update({"font.size": 9, "svg.hashsalt": name, "svg.fonttype": "none", "text.color": _INK})
        # Without pyplot, no window is opened, whatever the user's backend.
        figure = Figure(figsize=(5.4 * len(columns), 4), layout="constrained")
        panels = figure.subplots(1, len(columns), squeeze=False)
        named = {}
        for axes, column in zip(panels[0], columns, strict=True):
            draw(axes, column)
            axes.grid(axis="y", linewidth=0.4)
            axes.spines[["top", "right"]].set_visible(False)
            handles, labels = axes.get_legend_handles_labels()
            named |= dict(zip(labels, handles, strict=True))
        if shares_legend and named:
            place = {"loc": "outside lower center", "ncols": 2 * len(columns)}
            figure.legend(named.values(), named.keys(), fontsize=8, frameon=False, **place)
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    return out.getvalue()


def mean_and_reach(interval: Interval) -> tuple[float, tuple[float, float]]:
    """A mean in percent, and how far its interval reaches below and above; by rounding, equal scores' mean may lie outside."""
    return 100 * interval.mean, (100 * max(0.0, interval.mean - interval.low), 100 * max(0.0, interval.high - interval.mean))


_MARKERS = "osD^vP*X"  # of the best methods, which the legend names; the others are grey


def storage_plot(table: Table, outcomes: list[Outcome]) -> str:
    """Quality against extra storage in KiB, as SVG; on a logarithmic axis, with a place of its own for methods that need none."""

    def storage(axes: Axes) -> None:
        axes.set_xscale("symlog", linthresh=0.1)
        axes.set_xlim(-0.03, 2 * axes.get_xlim()[1])
        axes.set_xlabel("extra storage on the device (KiB)")

    return _cost_plot("storage", table, _mean_cost(outcomes, "extra_bytes", 1 / 1024), storage)


def inferences_plot(table: Table, outcomes: list[Outcome]) -> str:
    """Quality against inferences per example, as SVG."""

    def inferences(axes: Axes) -> None:
        axes.set_xlim(0.5, axes.get_xlim()[1] + 0.5)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_xlabel("inferences per example")

    return _cost_plot("inferences", table, _mean_cost(outcomes, "inferences_per_example"), inferences)


def _mean_cost(outcomes: list[Outcome], name: str, unit: float = 1.0) -> dict[str, float]:
    """A cost by the row's label, the mean over its experiments."""
    found: dict[str, list[float]] = {}
    for one in outcomes:
        found.setdefault(one.cell.label, []).append(unit * one.results["cost"][name])
    return {label: float(np.mean(values)) for label, values in found.items()}


def _cost_plot(name: str, table: Table, costs: dict[str, float], finish: Callable[[Axes], None]) -> str:
    """A panel per column of the headline metric, a point with its interval per method; the best over all columns have names."""
    named = _best(table)

    def draw(axes: Axes, column: Column) -> None:
        for label in sorted(table.rows, key=lambda one: one in named):
            if not (interval := table.rows[label][column].interval):
                continue
            number = named.index(label) if label in named else None
            mean, (below, above) = mean_and_reach(interval)
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
        there = [entry.interval.mean for column, entry in entries.items() if entry.interval and column.figure is Figure.QUALITY]
        if there:
            means[label] = sum(there) / len(there)
    return sorted(means, key=lambda label: -means[label])[: len(_MARKERS)]


def all_plots(table: Table, outcomes: list[Outcome], ablation: Ablation | None, rows: list[TableRow]) -> dict[str, str]:
    """The plots of the main table, or of an ablation whose `rows` are shown, as SVG by name; none if Matplotlib can't be loaded."""
    try:
        _import_matplotlib()
    except (ImportError, OSError, ValueError) as error:
        logger.warning("no plots: Matplotlib can't be loaded (%s)", first_line(error))
        return {}
    if ablation is None:
        plots = {"storage": storage_plot(table, outcomes), "inferences": inferences_plot(table, outcomes)}
    else:
        plots = {"quality": setting_plot("quality", table, rows, ablation.axis)} if ablation.axis else {}
    training = training_plot("training", table, outcomes)
    return plots | ({"training": training} if training else {})


Curve = tuple[np.ndarray, np.ndarray]


def setting_plot(name: str, table: Table, rows: list[TableRow], axis: str) -> str:
    """Quality with its intervals against the rows' values on a logarithmic axis, a line per series; as SVG."""

    def draw(axes: Axes, column: Column) -> None:
        for row in rows:
            entry = table.rows[row.label][column]
            if not row.series and entry.interval:
                axes.axhline(mean_and_reach(entry.interval)[0], color=FAINT, linestyle="--", linewidth=1, label=row.label)
        for one in dict.fromkeys(row.series for row in rows if row.series):
            members = [row for row in rows if row.series == one and table.rows[row.label][column].interval]
            points = [mean_and_reach(table.rows[row.label][column].interval) for row in members]
            means, spread = [mean for mean, _ in points], np.array([reach for _, reach in points]).reshape(-1, 2).T
            values = [row.value for row in members]
            axes.errorbar(values, means, yerr=spread, marker="o", markersize=4, linewidth=1.2, elinewidth=0.8, label=one)
        ticks = sorted({row.value for row in rows if row.value})
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
