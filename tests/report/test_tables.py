"""From experiments' output to tables: marks, missing cells, formats, and the page with the examples."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import replace

import numpy as np
import pytest

from compositional.paper import LABELS, MAIN_BLOCK, paper_scores
from compositional.report.collect import Outcome
from compositional.report.formats import MISSING, cell_text, to_csv, to_latex, to_markdown
from compositional.report.plots import storage_plot
from compositional.report.table import make_table, rank_correlation, resamples_for
from compositional.scoring.bootstrap import Resampler
from compositional.sweep.rows import PAPER_ROWS
from compositional.sweep.selection import Cell
from helpers.tables import asked, outcomes_at


def test_figures_like_the_papers_correlate_perfectly_with_them_and_the_best_three_are_marked():
    chosen = asked({"sub_tasks": ["sum_tr_es", "sum_tr_fr"], "models": ["pocket"]})
    paper = {label: paper_scores(label, "summarization", "translation").quality / 100 for label in LABELS}
    table = make_table("a table", "", chosen, outcomes_at(chosen, paper), "Learnable Calibration++", Resampler(2000, 0))
    assert list(table.rows) == list(LABELS)
    quality, _ = table.columns
    assert table.correlations[quality] == pytest.approx(1.0)
    best = [label for label in LABELS if table.rows[label][quality].place <= 3]
    assert best == ["Joint-expert LoRA", "Learnable Calibration", "Learnable Calibration++"]
    assert table.rows["Zero-shot"][quality].better is False
    assert table.rows["Learnable Calibration++"][quality].better is None
    backwards = {label: 1 - value for label, value in paper.items()}
    table = make_table("a table", "", chosen, outcomes_at(chosen, backwards), "Learnable Calibration++", Resampler(2000, 0))
    assert table.correlations[quality] == pytest.approx(-1.0)
    assert table.rows["Zero-shot"][quality].better is True


def test_what_is_missing_is_shown_as_missing_and_never_averaged_over():
    chosen = asked({"tasks": ["sum_tr"], "models": ["pocket"], "methods": ["zero_shot", "main_lora", "linear_merge"]})
    found = outcomes_at(chosen, {"Zero-shot": 0.1, "Main-task LoRA": 0.2}, judged=False)
    found = [one for one in found if not (one.cell.label == "Main-task LoRA" and one.cell.sub_task.name == "sum_tr_fr")]
    table = make_table("a table", "", chosen, found, "Zero-shot", Resampler(100, 0))
    (column,) = table.columns
    assert table.correlations[column] is None
    shown = to_markdown(table)
    (zero,) = re.findall(r"^\| Zero-shot .*", shown, re.MULTILINE)
    (main,) = re.findall(r"^\| Main-task LoRA .*", shown, re.MULTILINE)
    (linear,) = re.findall(r"^\| Linear merge .*", shown, re.MULTILINE)
    assert "**10.0 [9.8, 10.2]** (7.5)" in zero
    assert " 2/3 (13.4) " in main
    assert " — (14.3) " in linear
    rows = list(csv.DictReader(io.StringIO(to_csv(table))))
    assert [(row["method"], row["mean"], row["there"]) for row in rows] == [
        ("Zero-shot", "10.000", "3"),
        ("Main-task LoRA", "", "2"),
        ("Linear merge", "", "0"),
    ]


def test_a_missing_seed_is_shown_as_missing():
    chosen = asked({"sub_tasks": ["sum_tr_es"], "models": ["pocket"], "methods": ["dam_merge", "zero_shot"], "seeds": [0, 1]})
    found = [one for one in outcomes_at(chosen, {"DAM/ZipLoRA merge": 0.4, "Zero-shot": 0.2}) if one.cell.seed == 0]
    table = make_table("a table", "", chosen, found, "Zero-shot", Resampler(100, 0))
    (row,) = re.findall(r"^\| DAM.*", to_markdown(table), re.MULTILINE)
    assert " 1/2 " in row
    assert table.rows["Zero-shot"][table.columns[0]].interval is not None  # it has no seeds


def test_outputs_without_a_verdict_are_counted_beside_the_figure():
    chosen = asked({"sub_tasks": ["sum_tr_es"], "models": ["pocket"], "methods": ["zero_shot", "main_lora"]})
    found = outcomes_at(chosen, {"Zero-shot": 0.5, "Main-task LoRA": 0.5})
    found[0].judged[:30] = np.nan
    table = make_table("a table", "", chosen, found, "Main-task LoRA", Resampler(100, 0))
    assert table.rows["Zero-shot"][table.columns[1]].without_verdict == 30
    shown = to_markdown(table)
    assert "]▲ ?30" in shown or "] ?30" in shown or "]▼ ?30" in shown
    assert "?n: n outputs have no verdict" in shown
    assert "▲ ▼" not in to_markdown(make_table("a table", "", chosen, found, "Learnable Calibration++", Resampler(100, 0)))


def test_grades_have_a_column_beside_the_judges_and_are_compared_with_no_figure_of_the_paper():
    chosen = asked({"sub_tasks": ["sum_tr_es"], "models": ["pocket"]})
    paper = {label: paper_scores(label, "summarization", "translation").quality / 100 for label in LABELS}
    found = [replace(one, judged=np.zeros(50)) for one in outcomes_at(chosen, paper, graded=True)]
    table = make_table("a table", "", chosen, found, "Zero-shot", Resampler(4000, 0))
    assert [column.label for column in table.columns] == ["S+Tr ROUGE-L", "S+Tr LLM-J", "S+Tr grade"]
    graded = table.columns[2]
    assert table.quality_columns == table.columns[:1]
    assert table.correlations[graded] is None
    assert {entries[graded].paper for entries in table.rows.values()} == {None}
    assert table.rows["Learnable Calibration++"][graded].interval.mean == pytest.approx(paper["Learnable Calibration++"])
    assert table.rows["Learnable Calibration++"][graded].better is True
    assert "Grade: the mean share of the meaning" in to_markdown(table)
    found[0] = replace(found[0], graded=None)  # verdicts that were made before there were grades
    table = make_table("a table", "", chosen, found, "Zero-shot", Resampler(100, 0))
    first = table.rows[found[0].cell.label]
    assert [cell_text(first[column]) == MISSING for column in table.columns] == [False, False, True]
    ungraded = make_table("a table", "", chosen, outcomes_at(chosen, paper), "Zero-shot", Resampler(100, 0))
    assert "rade" not in to_markdown(ungraded)


def test_a_figure_by_the_default_tokenizer_stands_beside_the_papers():
    """Translations are scored with a Unicode tokenizer, the paper's probably with rouge_score's default one."""
    rows = {"Zero-shot": 0.5, "exact mean": 0.4}
    flags = {"sub_tasks": ["sum_tr_es", "sum_tr_fr"], "models": ["pocket"], "methods": ["zero_shot", "exact_linear_merge"]}
    chosen = asked(flags)
    found = outcomes_at(chosen, rows)
    by_sub_task = {"sum_tr_es": 0.3, "sum_tr_fr": 0.4}
    both = [replace(one, default_rouge=by_sub_task[one.cell.sub_task.name]) for one in found]
    table = make_table("a table", "", chosen, both, "Zero-shot", Resampler(100, 0))
    quality, judged = table.columns
    assert table.rows["Zero-shot"][quality].default_rouge == pytest.approx(0.35)
    assert table.rows["Zero-shot"][judged].default_rouge is None
    shown = to_markdown(table)
    (zero,) = re.findall(r"^\| Zero-shot .*", shown, re.MULTILINE)
    assert "] (7.5, ours 35.0)" in zero.replace("*", "")
    assert "Beside it, ours by rouge_score's default tokenizer" in shown
    assert [row["default_rouge"] for row in csv.DictReader(io.StringIO(to_csv(table)))][:2] == ["35.000", ""]
    plain = to_markdown(make_table("a table", "", chosen, found, "Zero-shot", Resampler(100, 0)))
    assert "ours" not in plain
    one_missing = [replace(both[0], default_rouge=None), *both[1:]]
    table = make_table("a table", "", chosen, one_missing, "Zero-shot", Resampler(100, 0))
    assert table.rows["Zero-shot"][quality].default_rouge is None


def test_latex_is_booktabs_with_what_latex_reads_otherwise_escaped():
    chosen = asked({"sub_tasks": ["sum_tr_es"], "models": ["pocket"], "methods": ["zero_shot", "main_lora"]})
    table = make_table("a table", "", chosen, outcomes_at(chosen, {"Zero-shot": 0.5}), "Zero-shot", Resampler(100, 0))
    lines = to_latex(table).splitlines()
    assert lines[0] == r"\begin{tabular}{lrr}"
    assert lines[2] == r"Method & S+Tr ROUGE-L \% & S+Tr LLM-J \% \\"
    assert lines[4].startswith(r"Zero-shot & \textbf{50.0} {\scriptsize [")
    assert lines[5] == r"Main-task LoRA & -- & -- \\"
    assert (lines[1], lines[3], lines[-2]) == (r"\toprule", r"\midrule", r"\bottomrule")


def test_means_that_differ_by_rounding_alone_are_ties():
    assert 0.1 + 0.2 != 0.3
    assert rank_correlation([0.1 + 0.2, 0.3, 0.4], [2, 1, 3]) == rank_correlation([0.3, 0.3, 0.4], [2, 1, 3]) != 0.5


def test_the_main_block_is_what_correlations_are_over():
    assert len(MAIN_BLOCK) == 16
    assert not any(label.startswith("Shared") for label in MAIN_BLOCK)


def test_a_plot_names_the_best_methods_and_calls_the_rest_others():
    chosen = asked({"sub_tasks": ["sum_tr_es"]})
    quality = {cell.label: number / 100 for number, cell in enumerate(chosen)}
    found = outcomes_at(chosen, quality)
    for one in found:
        one.results["cost"]["extra_bytes"] = 1024
    plot = storage_plot(make_table("a table", "", chosen, found, "", Resampler(50, 0)), found)
    named = [label for label in quality if f">{label}<" in plot]
    assert named == list(quality)[-8:]
    assert plot.count(">others<") == 1


# ---- intervals and marks

HUNDRED = [str(number) for number in range(100)]


def outcomes_with(scores: dict[str, np.ndarray], cells: list[Cell]) -> list[Outcome]:
    """Outcomes on 100 inputs, the same in all sub-tasks, with the row's scores (seeds × inputs)."""
    results = {"cost": {"extra_parameters": 7}, "stages": {"test": {"headline_metric": "rougeL"}}}
    return [Outcome(one, HUNDRED, HUNDRED, scores[one.label][one.seed], None, results) for one in cells if one.label in scores]


def test_sub_tasks_with_the_same_inputs_are_resampled_together():
    chosen = asked({"sub_tasks": ["sum_tr_es", "sum_tr_fr"], "models": ["pocket"], "methods": ["zero_shot"]})
    found = outcomes_with({"Zero-shot": np.random.default_rng(0).random((1, 100))}, chosen)
    widths = []
    for outcomes in (found, [found[0], replace(found[1], inputs=[f"other {name}" for name in HUNDRED])]):
        table = make_table("a table", "", chosen, outcomes, "", Resampler(2000, 0))
        interval = table.rows["Zero-shot"][table.columns[0]].interval
        widths.append(interval.high - interval.low)
    assert widths[0] == pytest.approx(np.sqrt(2) * widths[1], rel=0.08)


def test_the_seeds_of_a_row_are_drawn_once_for_all_sub_tasks_which_share_the_main_tasks_adapter():
    flags = {"sub_tasks": ["sum_tr_es", "sum_tr_fr"], "models": ["pocket"], "seeds": [0, 1, 2]}
    own, shared = "Learnable Calibration", "Shared Learnable Calibration"
    chosen = [one for one in asked(flags) if one.label in (own, shared)]
    values = np.random.default_rng(0).random((1, 100)) * 0.01 + np.array([[0.4], [0.5], [0.6]])
    table = make_table("a table", "", chosen, outcomes_with({own: values, shared: values}, chosen), "", Resampler(10_000, 0))
    reach = 4.303 * 0.1 / np.sqrt(3)  # Student's t with 2 degrees of freedom, whatever the number of sub-tasks
    for label in (own, shared):
        interval = table.rows[label][table.columns[0]].interval
        assert (interval.high - interval.low) / 2 == pytest.approx(reach, rel=0.06), label


def test_marks_are_corrected_for_the_number_of_comparisons_and_the_notes_say_so():
    names = [row.name for row in PAPER_ROWS if not (row.learns or row.trains)]
    chosen = asked({"sub_tasks": ["sum_tr_es"], "models": ["pocket"], "methods": names})
    first, noise = np.random.default_rng(0).normal(0.5, 0.1, (2, 100))
    # With a standard error of 0.01, a difference of 0.023 has a p value of about 0.02.
    better = first + 0.023 + (noise - noise.mean()) / noise.std(ddof=1) * 0.1
    scores = {one.label: first[None] for one in chosen} | {"Main-task LoRA": better[None]}
    found = outcomes_with(scores, chosen)
    marks = []
    for cells in ([one for one in chosen if one.label in ("Zero-shot", "Main-task LoRA")], chosen):
        table = make_table("a table", "", cells, found, "Zero-shot", Resampler(2000, 0))
        marks.append(table.rows["Main-task LoRA"][table.columns[0]].better)
    assert marks == [True, None]
    assert f"p < 0.05 after Holm's correction for {len(chosen) - 1} comparisons)" in to_markdown(table)
    assert "no p can be below" not in to_markdown(table)
    too_few = make_table("a table", "", chosen, found, "Zero-shot", Resampler(200, 0))
    assert "With so few resamples, no p can be below 0.05 after it." in to_markdown(too_few)


def test_a_table_of_many_comparisons_takes_as_many_resamples_as_let_one_be_significant():
    few = asked({"sub_tasks": ["sum_tr_es"], "models": ["pocket"], "methods": ["zero_shot", "main_lora"]})
    many = asked({"models": ["pocket"], "methods": ["paper", "own"], "seeds": [0]})
    equal = {one.label: 0.5 for one in many}
    assert resamples_for(few, outcomes_at(few, equal)) == 10_000
    resamples = resamples_for(many, outcomes_at(many, equal))
    comparisons = (len({one.label for one in many}) - 1) * 8
    assert resamples > 10_000
    assert comparisons * Resampler(resamples, 0).least_p == pytest.approx(0.02, rel=1e-3)


def test_a_share_of_0_and_of_100_percent_has_an_interval():
    chosen = asked({"sub_tasks": ["sum_tr_es"], "models": ["pocket"], "methods": ["zero_shot", "main_lora"]})
    found = outcomes_at(chosen, {one.label: 0.5 for one in chosen})
    found = [replace(one, judged=np.full(50, share)) for one, share in zip(found, (0.0, 1.0), strict=True)]
    table = make_table("a table", "", chosen, found, "", Resampler(100, 0))
    shown = [cell_text(entries[table.columns[1]]) for entries in table.rows.values()]
    assert shown == ["0.0 [0.0, 7.1]", "100.0 [92.9, 100.0]"]


def test_a_table_of_one_seed_says_what_its_intervals_leave_out():
    chosen = asked({"sub_tasks": ["sum_tr_es"], "models": ["pocket"], "methods": ["dam_merge", "zero_shot"], "seeds": [0, 1]})
    found = outcomes_at(chosen, {"DAM/ZipLoRA merge": 0.4, "Zero-shot": 0.2})
    assert "leave out" not in to_markdown(make_table("a table", "", chosen, found, "", Resampler(100, 0)))
    once = [one for one in chosen if one.seed == 0]
    shown = to_markdown(make_table("a table", "", once, [one for one in found if one.cell.seed == 0], "", Resampler(100, 0)))
    assert "With one seed, the intervals leave out how much training varies." in shown
