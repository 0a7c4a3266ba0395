"""Any table is in its CSV by value, and in Markdown and LaTeX with all of its cells, whatever its rows are called."""

from __future__ import annotations

import csv
import io
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compositional.report.formats import to_csv, to_latex, to_markdown
from compositional.report.table import Column, Entry, Figure, Table
from compositional.scoring.intervals import Interval

COLUMNS = [
    Column(main, aux, figure)
    for main in ("summarization", "reply")
    for aux in ("translation", "tone_adjustment")
    for figure in Figure
]
# Rows are called after methods or after files of merge strategies, whose names can be printed.
LABELS = st.one_of(
    st.sampled_from(["Linear merge", "a,b", 'a "b"', "a|b", "1", "", "50%_&#$^~{}\\", " x ", "=1+1", "\\|"]),
    st.text(st.characters(exclude_categories=["C", "Zl", "Zp"]), max_size=8).filter(str.isprintable),
)
SHARES = st.floats(0, 1)
COUNTS = st.integers(0, 10**6)


@st.composite
def entries(draw: st.DrawFn) -> Entry:
    low, mean, high = sorted(draw(st.tuples(SHARES, SHARES, SHARES)))
    return Entry(
        draw(st.one_of(st.none(), st.just(Interval(mean, low, high)))),
        draw(COUNTS),
        draw(COUNTS),
        draw(COUNTS),
        draw(st.sampled_from([True, False, None])),
        draw(st.one_of(st.none(), st.integers(1, 99))),
        draw(st.one_of(st.none(), SHARES)),
        draw(st.one_of(st.none(), SHARES)),
    )


@st.composite
def tables(draw: st.DrawFn) -> Table:
    columns = draw(st.lists(st.sampled_from(COLUMNS), min_size=1, max_size=4, unique=True))
    labels = draw(st.lists(LABELS, min_size=1, max_size=4, unique=True))
    rows = {label: {column: draw(entries()) for column in columns} for label in labels}
    return Table(
        "title",
        "setting",
        columns,
        rows,
        correlations={column: draw(st.one_of(st.none(), st.floats(-1, 1))) for column in columns},
        extra_parameters={label: draw(st.one_of(st.none(), st.floats(0, 1e12))) for label in labels},
        reference=labels[0],
        compared=draw(st.integers(0, 3)),
        least_p=draw(SHARES),
        one_seed=draw(st.booleans()),
    )


def number(cell: str) -> float | None:
    """A share from its percent."""
    return float(cell) / 100 if cell else None


def approximately(value: float | None, decimals: int) -> object:
    return None if value is None else pytest.approx(value, abs=0.51 * 10.0 ** -(decimals + 2))


@given(table=tables())
def test_a_table_is_in_its_csv_by_value(table):
    read = {(row["method"], row["column"]): row for row in csv.DictReader(io.StringIO(to_csv(table), newline=""), strict=True)}
    assert read.keys() == {(label, column.label) for label in table.rows for column in table.columns}
    for label, row in table.rows.items():
        for column, entry in row.items():
            cells = read[label, column.label]
            bounds = [number(cells[name]) for name in ("mean", "low", "high")]
            expected = [entry.interval.mean, entry.interval.low, entry.interval.high] if entry.interval else [None] * 3
            assert bounds == [approximately(value, 3) for value in expected]
            assert number(cells["paper"]) == approximately(entry.paper, 2)
            assert number(cells["default_rouge"]) == approximately(entry.default_rouge, 3)
            counts = tuple(int(cells[name]) for name in ("there", "expected", "without_verdict"))
            assert counts == (entry.there, entry.expected, entry.without_verdict)
            assert {"better": True, "worse": False, "": None}[cells["versus_reference"]] is entry.better
            assert (int(cells["place"]) if cells["place"] else None) == entry.place


@given(table=tables())
def test_every_line_of_a_markdown_table_has_all_cells(table):
    lines = to_markdown(table).partition("\n\n")[0].splitlines()
    assert len(lines) == 2 + len(table.rows) + table.has_papers_figures
    assert {re.sub(r"\\.", "", line).count("|") for line in lines} == {len(table.columns) + 3}


@given(table=tables())
def test_every_line_of_a_latex_table_has_all_cells_and_no_character_of_a_label_is_a_command(table):
    body = to_latex(table).split("\\midrule\n")[1].split("\\bottomrule")[0].splitlines()
    assert len(body) == len(table.rows)
    for label, line in zip(table.rows, body, strict=True):
        assert len(re.findall(r"(?<!\\)&", line)) == len(table.columns)
        shown = re.sub(r"\\text(backslash|asciitilde|asciicircum)\{\}|\\[&%_#${}]", "", re.split(r"(?<!\\) & ", line)[0])
        assert not set(shown) & set("\\&%_#${}~^"), label
