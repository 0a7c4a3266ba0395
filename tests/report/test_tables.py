"""From experiments' output to tables: statistics by value, missing cells, formats, and the page with the examples."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import replace

import numpy as np
import pytest

from compositional.paper import LABELS, MAIN_BLOCK, paper_scores
from compositional.report.formats import MISSING, cell_text, to_csv, to_latex, to_markdown
from compositional.report.plots import storage_plot
from compositional.report.table import make_table
from compositional.scoring.bootstrap import Resampler, bootstrap_interval, statistic
from helpers.tables import asked, outcomes_at

# ---- statistics


def random_strata(seed: int, shift: float = 0.0, seeds: int = 1) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    return {name: generator.random((seeds, size)) + shift for name, size in (("a", 40), ("b", 160))}


def test_the_bootstrap_by_value():
    """Tables that were made earlier stay the same, to the digit."""
    strata = {"a": np.array([[0.1, 0.9, 0.4, 0.2]]), "b": np.array([[1.0, 0.0, np.nan], [0.5, 0.25, 1.0]])}
    resampler = Resampler(200, 3)
    interval = resampler.interval(strata)
    assert (interval.mean, interval.low, interval.high) == pytest.approx(
        (0.4708333333333333, 0.1853125, 0.7619791666666663), rel=1e-12
    )
    assert resampler.p_value(strata, {name: 0.5 * values for name, values in strata.items()}) == pytest.approx(14 / 201)


def test_the_interval_over_examples_is_that_of_a_stratum_with_one_seed():
    values = list(random_strata(0)["b"][0])
    assert bootstrap_interval(values, 300, 7) == Resampler(300, 7).interval({"examples": np.array([values])})


def test_a_mean_gives_each_sub_task_the_same_weight_and_each_seed_of_it():
    strata = {"a": np.array([[1.0, 0.0], [0.0, 0.0]]), "b": np.array([[1.0] * 6])}
    assert statistic(strata) == pytest.approx((0.25 + 1) / 2)


def test_an_interval_over_one_sub_task_is_the_plain_bootstraps():
    values = random_strata(0)["b"]
    interval, plain = Resampler(4000, 0).interval({"b": values}), bootstrap_interval(list(values[0]), 4000, 1)
    assert interval.mean == pytest.approx(plain.mean)
    assert interval.low == pytest.approx(plain.low, abs=0.006)
    assert interval.high == pytest.approx(plain.high, abs=0.006)


def test_an_interval_over_sub_tasks_is_that_of_their_mean():
    strata = random_strata(1)
    interval = Resampler(4000, 0).interval(strata)
    error = np.sqrt(sum(values.var() / values.size for values in strata.values())) / 2
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * error, rel=0.06)


def test_seeds_that_differ_widen_an_interval_and_equal_ones_do_not():
    values = random_strata(2)["b"]
    alike, apart = {"b": np.repeat(values, 3, axis=0)}, {"b": values + np.array([[-0.2], [0.0], [0.2]])}
    widths = [
        interval.high - interval.low for interval in (Resampler(2000, 0).interval(one) for one in ({"b": values}, alike, apart))
    ]
    assert widths[0] == pytest.approx(widths[1])
    assert widths[2] > 2 * widths[0]


def test_a_paired_test_sees_a_small_shift_that_intervals_hide_and_nothing_between_equals():
    one, other = random_strata(3), random_strata(3, shift=0.001)
    resampler = Resampler(1000, 0)
    first, second = resampler.interval(one), resampler.interval(other)
    assert first.low < second.mean < first.high
    assert resampler.p_value(other, one) == pytest.approx(2 / 1001)
    assert resampler.p_value(one, one) == 1.0
    noise = {name: values + np.random.default_rng(4).normal(0, 0.3, values.shape) for name, values in one.items()}
    assert resampler.p_value(one, noise) > 0.05


def test_an_example_without_a_verdict_counts_nowhere():
    values = np.array([[1.0, 0.0, np.nan, 1.0]])
    assert statistic({"a": values}) == pytest.approx(2 / 3)
    means = Resampler(500, 0).means({"a": values})
    assert np.nanmean(means) == pytest.approx(2 / 3, abs=0.05)


# ---- the table


def test_figures_like_the_papers_correlate_perfectly_with_them_and_the_best_three_are_marked():
    chosen = asked({"sub_tasks": ["sum_tr_es", "sum_tr_fr"], "models": ["pocket"]})
    paper = {label: paper_scores(label, "summarization", "translation").quality / 100 for label in LABELS}
    table = make_table("a table", "", chosen, outcomes_at(chosen, paper), "Learnable Calibration++", Resampler(200, 0))
    assert list(table.rows) == list(LABELS)
    quality, _ = table.columns
    assert table.correlations[quality] == pytest.approx(1.0)
    best = [label for label in LABELS if table.rows[label][quality].place <= 3]
    assert best == ["Joint-expert LoRA", "Learnable Calibration", "Learnable Calibration++"]
    assert table.rows["Zero-shot"][quality].better is False
    assert table.rows["Learnable Calibration++"][quality].better is None
    backwards = {label: 1 - value for label, value in paper.items()}
    table = make_table("a table", "", chosen, outcomes_at(chosen, backwards), "Learnable Calibration++", Resampler(200, 0))
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
    assert "**10.0 [9.9, 10.1]** (7.5)" in zero
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
    table = make_table("a table", "", chosen, found, "Zero-shot", Resampler(100, 0))
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
