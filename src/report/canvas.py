"""Figures of a panel per column of a table, as SVG."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import TYPE_CHECKING

from src.report.table import Column
from src.scoring.bootstrap import Interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FAINT = "#8a93a5"
_INK = "#1c2330"


def draw_panels(name: str, columns: list[Column], draw: Callable[[Axes, Column], None], shares_legend: bool = False) -> str:
    """Let `draw` fill a panel per column. A legend that they share stands below; equal tables give equal files."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    with pyplot.rc_context({"font.size": 9, "svg.hashsalt": name, "svg.fonttype": "none", "text.color": _INK}):
        figure, panels = pyplot.subplots(1, len(columns), figsize=(5.4 * len(columns), 4), squeeze=False, layout="constrained")
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
        pyplot.close(figure)
    return out.getvalue()


def percent(interval: Interval) -> tuple[float, tuple[float, float]]:
    """A mean in percent, and how far its interval reaches below and above; by rounding, equal scores' mean may lie outside."""
    return 100 * interval.mean, (100 * max(0.0, interval.mean - interval.low), 100 * max(0.0, interval.high - interval.mean))
