"""Markdown tables with aligned columns, and percentages with their intervals."""

from __future__ import annotations


def aligned(lines: list[tuple[str, ...]]) -> str:
    """A Markdown table of a header and rows, its columns aligned: the first to the left, the others to the right."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    written = [_line(line, widths) for line in lines]
    rule = "|" + "|".join("-" * (width + 1) + (":" if column else "-") for column, width in enumerate(widths)) + "|"
    return "\n".join([written[0], rule, *written[1:]]) + "\n"


def percent(interval: dict[str, float]) -> str:
    """A mean and its interval, such as `97.1 [96.0, 98.1]`."""
    return f"{100 * interval['mean']:.1f} [{100 * interval['low']:.1f}, {100 * interval['high']:.1f}]"


def _line(cells: tuple[str, ...], widths: list[int]) -> str:
    first, *others = zip(cells, widths, strict=True)
    return "| " + " | ".join([first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]) + " |"
