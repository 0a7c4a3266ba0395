"""Results of experiments as a table to read, or to paste into a paper."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

METRIC_LABELS = {"rougeL": "ROUGE-L", "weighted_rouge": "weighted ROUGE"}
HEADER = ("inferences", "extra parameters", "extra bytes", "seconds")


@dataclass(frozen=True)
class Row:
    """A method's name in a table, its results.json, and a judge's record of it."""

    label: str
    results: dict[str, Any]
    judgement: dict[str, Any] | None = None


def markdown_table(rows: list[Row], stage: str = "test") -> str:
    """Headline metric and judge in percent with their 95 % intervals, exact match, cost and seconds, a line per row.

    Rows of one table share a headline metric. The judge's column is there when a row has a judgement.
    """
    scored = [row.results["stages"][stage] for row in rows]
    metric = scored[0]["headline_metric"]
    label = METRIC_LABELS.get(metric, metric)
    judged = [row.judgement["stages"].get(stage) if row.judgement else None for row in rows]
    judges = sorted({one["settings"]["judge"] for one in judged if one})
    judge_header = [f"LLM-J ({', '.join(judges)}) % [95 %]"] if judges else []
    lines = [("method", f"{label} % [95 %]", *judge_header, "exact match %", *HEADER)]
    for row, scores, judgement in zip(rows, scored, judged, strict=True):
        cost = row.results["cost"]
        lines.append(
            (
                row.label,
                percent(scores["metrics"][metric]),
                *([percent(judgement["yes"]) if judgement and judgement["yes"] else "—"] if judges else []),
                f"{100 * scores['metrics']['exact_match']['mean']:.1f}",
                f"{cost['inferences_per_example']}×",
                f"{cost['extra_parameters']:,}",
                f"{cost['extra_bytes']:,}",
                f"{row.results['seconds']['total']:.0f}",
            )
        )
    return aligned(lines)


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
