"""A table as Markdown, LaTeX (booktabs) and CSV."""

from __future__ import annotations

import csv
import io

from src.report.table import Entry, Table
from src.tables import aligned

MISSING = "—"
_MARKS = {True: "▲", False: "▼", None: ""}


def to_markdown(table: Table) -> str:
    """Percent with 95 % intervals, the best three of a column bold, the paper's figure in parentheses, and what the marks mean."""
    header = ("method", *(f"{column.label} %" for column in table.columns), "extra parameters")
    lines = [header]
    for label, entries in table.rows.items():
        cells = [_markdown_cell(entries[column]) for column in table.columns]
        lines.append((label, *cells, _count(table.extra_parameters[label])))
    if table.has_papers_figures:
        lines.append(("Spearman's ρ with the paper", *(_rho(table.correlations[column]) for column in table.columns), ""))
    return f"{aligned(lines)}\n{notes(table)}\n"


def notes(table: Table) -> str:
    """What the table is of, and what intervals, marks and missing cells mean."""
    compared = (
        f"▲ ▼: significantly better or worse than {table.reference} on the same examples (paired bootstrap, p < 0.05). "
        if table.reference in table.rows
        else ""
    )
    unjudged = any(entry.without_verdict for entries in table.rows.values() for entry in entries.values())
    return (
        f"{table.setting} "
        "Means over models and languages or tones, with 95 % bootstrap intervals; the best three of a column are bold. "
        + compared
        + ("In parentheses: the paper's figure, on its own data and models. " if table.has_papers_figures else "")
        + f"{MISSING}: missing; n/m: only n of m experiments are there."
        + (" ?n: n outputs have no verdict and don't count." if unjudged else "")
    )


def to_latex(table: Table) -> str:
    r"""A booktabs table; the document needs \usepackage{booktabs}."""
    columns = "l" + "r" * len(table.columns)
    lines = [f"\\begin{{tabular}}{{{columns}}}", "\\toprule"]
    lines.append(" & ".join(["Method", *(_escaped(f"{column.label} %") for column in table.columns)]) + r" \\")
    lines.append("\\midrule")
    for label, entries in table.rows.items():
        lines.append(" & ".join([_escaped(label), *(_latex_cell(entries[column]) for column in table.columns)]) + r" \\")
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}"]) + "\n"


def to_csv(table: Table) -> str:
    """A line per method and column: figures in percent, empty where they are missing."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(
        ["method", "column", "mean", "low", "high", "versus_reference", "place", "paper", "there", "expected", "without_verdict"]
    )
    for label, entries in table.rows.items():
        for column, entry in entries.items():
            bounds = (entry.interval.mean, entry.interval.low, entry.interval.high) if entry.interval else (None, None, None)
            versus = {True: "better", False: "worse", None: ""}[entry.better]
            figures = ["" if value is None else f"{100 * value:.3f}" for value in bounds]
            paper = "" if entry.paper is None else f"{100 * entry.paper:.2f}"
            place = entry.place or ""
            counts = (entry.there, entry.expected, entry.without_verdict)
            writer.writerow([label, column.label, *figures, versus, place, paper, *counts])
    return out.getvalue()


def cell_text(entry: Entry) -> str:
    """`28.6 [27.0, 30.1]▼`, or what is missing."""
    if not entry.interval:
        return f"{entry.there}/{entry.expected}" if entry.there else MISSING
    mean, low, high = (100 * value for value in (entry.interval.mean, entry.interval.low, entry.interval.high))
    unjudged = f" ?{entry.without_verdict}" if entry.without_verdict else ""
    return f"{mean:.1f} [{low:.1f}, {high:.1f}]{_MARKS[entry.better]}{unjudged}"


def is_bold(entry: Entry) -> bool:
    return entry.place is not None and entry.place <= 3


def _markdown_cell(entry: Entry) -> str:
    text = f"**{cell_text(entry)}**" if is_bold(entry) else cell_text(entry)
    return f"{text} ({100 * entry.paper:.1f})" if entry.paper is not None else text


def _latex_cell(entry: Entry) -> str:
    if not entry.interval:
        return cell_text(entry).replace(MISSING, "--")
    mean, low, high = (100 * value for value in (entry.interval.mean, entry.interval.low, entry.interval.high))
    number = f"\\textbf{{{mean:.1f}}}" if is_bold(entry) else f"{mean:.1f}"
    mark = {True: r"$^{\blacktriangle}$", False: r"$^{\blacktriangledown}$", None: ""}[entry.better]
    return f"{number}{mark} {{\\scriptsize [{low:.1f}, {high:.1f}]}}"


def _rho(value: float | None) -> str:
    return MISSING if value is None else f"{value:.2f}"


def _count(value: float | None) -> str:
    return MISSING if value is None else f"{value:,.0f}"


def _escaped(text: str) -> str:
    return text.replace("&", r"\&").replace("%", r"\%").replace("_", r"\_")
