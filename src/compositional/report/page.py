"""A table and its examples as one HTML page that needs nothing else."""

from __future__ import annotations

import base64
import html
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np

from compositional.core.errors import UserError
from compositional.core.workspace import Workspace
from compositional.prediction.predict import read_predictions
from compositional.report.collect import Outcome
from compositional.report.formats import MISSING, cell_text, is_bold, notes, papers_figure
from compositional.report.table import Entry, Table
from compositional.scoring.score import METRIC_LABELS

_TEMPLATE = Path(__file__).with_name("page.html")
_SHOWN_AT_FIRST = 4


def to_html(table: Table, plots: dict[str, str], outcomes: list[Outcome], workspace: Workspace, stage: str, examples: int) -> str:
    """The page, with plots (SVG by name), the first `examples` of each sub-task and what each method with the first seed said."""
    data = _examples(outcomes, workspace, stage, examples)
    # In a script element, only "</" and "<!" would end the data.
    embedded = json.dumps(data, ensure_ascii=False).replace("<", "\\u003c")
    parts = {
        "TITLE": html.escape(table.title),
        "TABLE": _table(table),
        "NOTES": html.escape(notes(table)),
        "PLOTS": "\n".join(_image(name, svg) for name, svg in plots.items()),
        "DATA": embedded,
    }
    page = _TEMPLATE.read_text(encoding="utf-8")
    return re.sub("__([A-Z]+)__", lambda place: parts[place[1]], page)


def _image(name: str, svg: str) -> str:
    """An image with its data, whose identifiers are its own."""
    encoded = base64.b64encode(svg.encode()).decode()
    return f'<h3>{html.escape(name)}</h3><img class="plot" alt="{html.escape(name)}" src="data:image/svg+xml;base64,{encoded}">'


def _table(table: Table) -> str:
    head = "".join(f"<th>{html.escape(column.label)} %</th>" for column in table.columns)
    lines = [f"<table><thead><tr><th>method</th>{head}<th>extra parameters</th></tr></thead><tbody>"]
    for label, entries in table.rows.items():
        cells = "".join(_cell(entries[column]) for column in table.columns)
        extra = table.extra_parameters[label]
        lines.append(f"<tr><td>{html.escape(label)}</td>{cells}<td>{MISSING if extra is None else f'{extra:,.0f}'}</td></tr>")
    if table.has_papers_figures:
        rho = "".join(f"<td>{MISSING if value is None else f'{value:.2f}'}</td>" for value in table.correlations.values())
        lines.append(f"<tr><td>Spearman's ρ with the paper</td>{rho}<td></td></tr>")
    return "\n".join([*lines, "</tbody></table>"])


def _cell(entry: Entry) -> str:
    text = cell_text(entry)
    for mark, kind in (("▲", "up"), ("▼", "down")):
        text = text.replace(mark, f'<span class="{kind}">{mark}</span>')
    paper = f"<small>paper {papers_figure(entry)}</small>" if entry.paper is not None else ""
    best = ' class="best"' if is_bold(entry) else ""
    return f"<td{best}>{text}{paper}</td>"


def _examples(outcomes: list[Outcome], workspace: Workspace, stage: str, limit: int) -> dict[str, Any]:
    """The data behind the examples: by sub-task (with the model), a list of inputs, references and outputs by method."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    metrics: dict[str, str] = {}
    first_seed = {}
    for one in outcomes:
        first_seed.setdefault((one.cell.stratum, one.cell.label), one)
    for (stratum, label), one in first_seed.items():
        metrics[stratum] = METRIC_LABELS[one.results["stages"][stage]["headline_metric"]]
        scored = {id: number for number, id in enumerate(one.ids[:limit])}
        path = workspace.predictions(one.cell.experiment, stage)
        if not path.is_file():
            raise UserError(f"{path} is missing: run the experiment again with --overwrite")
        for row in read_predictions(path):
            if row.id not in scored:
                continue
            example = found.setdefault(stratum, {}).setdefault(
                row.id, {"id": row.id, "input": row.input, "reference": row.reference, "outputs": {}}
            )
            number = scored[row.id]
            example["outputs"][label] = {
                "text": row.output,
                "score": round(float(one.quality[number]), 4),
                "verdict": _verdict(one, number),
                "grade": _grade(one, number),
            }
    labels = list(dict.fromkeys(one.cell.label for one in outcomes))
    mean = {label: float(np.mean([one.quality.mean() for one in outcomes if one.cell.label == label])) for label in labels}
    return {
        "methods": labels,
        "shown": sorted(labels, key=lambda label: -mean[label])[:_SHOWN_AT_FIRST],
        "metric": metrics,
        "sub_tasks": {stratum: list(examples.values()) for stratum, examples in found.items()},
    }


def _verdict(outcome: Outcome, number: int) -> bool | None:
    value = math.nan if outcome.judged is None else outcome.judged[number]
    return None if math.isnan(value) else bool(value)


def _grade(outcome: Outcome, number: int) -> float | None:
    value = math.nan if outcome.graded is None else outcome.graded[number]
    return None if math.isnan(value) else round(float(value), 4)
