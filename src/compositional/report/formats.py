"""A table as Markdown, LaTeX (booktabs) and CSV."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from typing import Any

from compositional.core.tables import aligned, percent
from compositional.report.table import SIGNIFICANT, Entry, Figure, Table
from compositional.scoring.score import METRIC_LABELS

MISSING = "—"
_MARKS = {True: "▲", False: "▼", None: ""}


def to_markdown(table: Table) -> str:
    """Percent with 95 % intervals, the best three of a column bold, the paper's figure in parentheses, and what the marks mean."""
    header = ("method", *(f"{column.label} %" for column in table.columns), "extra parameters")
    lines = [header]
    for label, entries in table.rows.items():
        cells = [_markdown_cell(entries[column]) for column in table.columns]
        lines.append((label.replace("\\", r"\\").replace("|", r"\|"), *cells, _count(table.extra_parameters[label])))
    if table.has_papers_figures:
        lines.append(("Spearman's ρ with the paper", *(_rho(table.correlations[column]) for column in table.columns), ""))
    return f"{aligned(lines)}\n{notes(table)}\n"


def notes(table: Table) -> str:
    """What the table is of, and what intervals, marks and missing cells mean."""
    unjudged = any(entry.without_verdict for entries in table.rows.values() for entry in entries.values())
    graded = any(column.figure is Figure.GRADED for column in table.columns)
    return (
        f"{table.setting} "
        "Means over models and languages or tones, with 95 % intervals over inputs and seeds (bootstrap, Wilson's near 0 and "
        "100 %); the best three of a column are bold. "
        + ("With one seed, the intervals leave out how much training varies. " if table.one_seed else "")
        + _comparisons(table)
        + ("In parentheses: the paper's figure, on its own data and models. " if table.has_papers_figures else "")
        + (
            "Beside it, ours by rouge_score's default tokenizer, which keeps ASCII letters only and is likely the paper's. "
            if table.has_default_rouge
            else ""
        )
        + f"{MISSING}: missing; n/m: only n of m experiments are there."
        + (" ?n: n outputs have no verdict and don't count." if unjudged else "")
        + (" Grade: the mean share of the meaning that is right in the requested form." if graded else "")
    )


def _comparisons(table: Table) -> str:
    """What the marks mean, and whether any could be given."""
    if not table.compared:
        return ""
    number = "for 1 comparison" if table.compared == 1 else f"for {table.compared} comparisons"
    few = f" With so few resamples, no p can be below {SIGNIFICANT} after it." if table.least_p >= SIGNIFICANT else ""
    return (
        f"▲ ▼: significantly better or worse than {table.reference} on the same inputs (paired bootstrap, p < {SIGNIFICANT} after "
        f"Holm's correction {number}).{few} "
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
        [
            *("method", "column", "mean", "low", "high", "versus_reference", "place", "paper", "there", "expected"),
            *("without_verdict", "default_rouge"),
        ]
    )
    for label, entries in table.rows.items():
        for column, entry in entries.items():
            bounds = (entry.interval.mean, entry.interval.low, entry.interval.high) if entry.interval else (None, None, None)
            versus = {True: "better", False: "worse", None: ""}[entry.better]
            figures = ["" if value is None else f"{100 * value:.3f}" for value in bounds]
            paper = "" if entry.paper is None else f"{100 * entry.paper:.2f}"
            default_rouge = "" if entry.default_rouge is None else f"{100 * entry.default_rouge:.3f}"
            place = entry.place or ""
            counts = (entry.there, entry.expected, entry.without_verdict)
            writer.writerow([label, column.label, *figures, versus, place, paper, *counts, default_rouge])
    return out.getvalue()


def cell_text(entry: Entry) -> str:
    """`28.6 [27.0, 30.1]▼`, or what is missing."""
    if not entry.interval:
        return f"{entry.there}/{entry.expected}" if entry.there else MISSING
    mean, low, high = (100 * value for value in (entry.interval.mean, entry.interval.low, entry.interval.high))
    unjudged = f" ?{entry.without_verdict}" if entry.without_verdict else ""
    return f"{mean:.1f} [{low:.1f}, {high:.1f}]{_MARKS[entry.better]}{unjudged}"


def papers_figure(entry: Entry) -> str:
    """The paper's figure, `14.3`, and ours by rouge_score's default tokenizer where ours is by another: `14.3, ours 57.1`."""
    ours = "" if entry.default_rouge is None else f", ours {100 * entry.default_rouge:.1f}"
    return f"{100 * entry.paper:.1f}{ours}"


def is_bold(entry: Entry) -> bool:
    """The three best methods of a column are set in bold, as in the paper's tables."""
    return entry.place is not None and entry.place <= 3


def _markdown_cell(entry: Entry) -> str:
    text = f"**{cell_text(entry)}**" if is_bold(entry) else cell_text(entry)
    return f"{text} ({papers_figure(entry)})" if entry.paper is not None else text


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


_IN_LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"} | {
    one: rf"\{one}" for one in "&%_#${}"
}


def _escaped(text: str) -> str:
    return text.translate(str.maketrans(_IN_LATEX))


HEADER = ("inferences", "extra parameters", "extra bytes", "seconds")


@dataclass(frozen=True)
class ComparedExperiment:
    """A line of the quickstart's table: its label, an experiment's results.json, and a judge's record of it."""

    label: str
    results: dict[str, Any]
    judgement: dict[str, Any] | None = None


def markdown_table(rows: list[ComparedExperiment], stage: str = "test") -> str:
    """Headline metric and judge in percent with their 95 % intervals, exact match, cost and seconds, a line per row.

    Rows of one table share a headline metric. The judge's column is there when a row has a judgement, and the column of its grades
    when a row has grades.
    """
    scored = [row.results["stages"][stage] for row in rows]
    metric = scored[0]["headline_metric"]
    label = METRIC_LABELS.get(metric, metric)
    judged = [row.judgement["stages"].get(stage) if row.judgement else None for row in rows]
    judges = sorted({one["settings"]["judge"] for one in judged if one})
    judge_header = [f"LLM-J ({', '.join(judges)}) % [95 %]"] if judges else []
    graded = any(one.get("grade") for one in judged if one)
    grade_header = ["grade % [95 %]"] if graded else []
    lines = [("method", f"{label} % [95 %]", *judge_header, *grade_header, "exact match %", *HEADER)]
    for row, scores, judgement in zip(rows, scored, judged, strict=True):
        cost = row.results["cost"]
        lines.append(
            (
                row.label,
                percent(scores["metrics"][metric]),
                *([_judged(judgement, "yes")] if judges else []),
                *([_judged(judgement, "grade")] if graded else []),
                f"{100 * scores['metrics']['exact_match']['mean']:.1f}",
                f"{cost['inferences_per_example']}×",
                f"{cost['extra_parameters']:,}",
                f"{cost['extra_bytes']:,}",
                f"{row.results['seconds']['total']:.0f}",
            )
        )
    return aligned(lines)


def _judged(judgement: dict[str, Any] | None, figure: str) -> str:
    """A judge's figure in percent; records of earlier versions, and of judge models, have no grade."""
    return percent(judgement[figure]) if judgement and judgement.get(figure) else MISSING
