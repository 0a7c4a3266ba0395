"""Judging by the real command with Pocket's judge: verdicts, records, resuming, and the table."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from compositional.core.errors import UserError
from compositional.core.files import hash_of_files
from compositional.core.recorded import read_recorded
from compositional.core.tables import percent
from compositional.data import Locations, all_datasets, name_of_input
from compositional.pocket import GRAMMAR_REVISION
from compositional.pocket.sentences import render_all
from compositional.report.formats import ComparedExperiment, markdown_table
from compositional.scoring.bootstrap import bootstrap_interval
from helpers.judging import (
    NOT_POCKETS,
    RULE,
    SIX,
    SIX_VERDICTS,
    examples,
    files_in,
    partial_of,
    right,
    store_predictions,
    verdicts,
    without_environment,
    wrong,
)


def test_the_share_of_yes_its_interval_and_the_counts_are_right_by_value(workspace, judge):
    predictions = store_predictions(workspace, "e", SIX)
    record = judge(f"{RULE}--experiment_name e")["e"]
    assert record == read_recorded(workspace.judgement("e", "pocket"))
    assert (record["experiment"], record["judge"], list(record["stages"])) == ("e", "pocket", ["test"])
    found = record["stages"]["test"]
    # Wilson's interval of 3 of 5, counted as 4 × (1.96 / 2.78)² answers: the variance is p (1 - p) / 4, and t has 4 degrees.
    assert found["yes"] == pytest.approx({"mean": 0.6, "low": 0.1312, "high": 0.9371}, abs=1e-4)
    assert found["counts"] == {"examples": 6, "judged": 5, "yes": 3, "failures": {NOT_POCKETS: 1}}
    assert found["settings"]["judge"] == "rule"
    assert found["settings"]["model"] == "pocket"
    assert re.fullmatch("[0-9a-f]{64}", found["settings"]["revision"])
    assert found["settings"]["prompt_hash"] is None
    assert found["settings"]["hash_of_predictions"] == hash_of_files([predictions])
    assert found["arguments"]["judge_model_name_or_path"] == "pocket"
    assert {"versions", "commit", "device"} <= set(found["environment"])


def test_verdicts_are_lines_in_the_order_of_the_predictions(workspace, judge):
    store_predictions(workspace, "e", SIX)
    judge(f"{RULE}--experiment_name e --batch_size 4")
    found = verdicts(workspace, "e")
    grades = [row.pop("grade") for row in found]
    assert [grades[0], *grades[2:]] == [1, 0, 1, 1, None]
    assert 0 < grades[1] < 1
    assert found == [
        {"id": f"test_{number}", "verdict": verdict, "reply": verdict, "failure": None if verdict else NOT_POCKETS}
        for number, verdict in enumerate(SIX_VERDICTS)
    ]


def almost(number: int, wrong_words: int) -> tuple[str, str]:
    """The input of a dialogue and its summary in Spanish, with the first words of its first sentence wrong."""
    given, said = right(number)
    words = said.split()
    return given, " ".join([*["xyz"] * wrong_words, *words[wrong_words:]])


def test_grades_tell_experiments_apart_that_have_no_yes(workspace, judge):
    outputs = {"english": wrong, "two_wrong": lambda number: almost(number, 2), "one_wrong": lambda number: almost(number, 1)}
    for name, output in outputs.items():
        store_predictions(workspace, name, [output(number) for number in range(30)])
    records = judge(f"{RULE}--experiment_name {' '.join(outputs)}")
    stages = {name: record["stages"]["test"] for name, record in records.items()}
    assert [found["yes"]["mean"] for found in stages.values()] == [0, 0, 0]
    grades = [found["grade"] for found in stages.values()]
    assert grades[0] == {"mean": 0, "low": 0, "high": pytest.approx(0.1135, abs=1e-4)}  # Wilson's, of 0 among 30
    assert grades[1]["high"] < grades[2]["low"]
    for name, found in stages.items():
        stored = [row["grade"] for row in verdicts(workspace, name)]
        inputs = [name_of_input(right(number)[0]) for number in range(30)]
        assert found["grade"] == asdict(bootstrap_interval(stored, inputs, 1000, 0))
    assert stages["one_wrong"] == read_recorded(workspace.judgement("one_wrong", "pocket"))["stages"]["test"]


def test_an_example_without_a_verdict_has_no_grade_and_does_not_count(workspace, judge, caplog):
    store_predictions(workspace, "e", SIX)
    with caplog.at_level("INFO"):
        found = judge(f"{RULE}--experiment_name e")["e"]["stages"]["test"]
    grades = [row["grade"] for row in verdicts(workspace, "e")]
    assert grades[5] is None
    assert found["grade"]["mean"] == pytest.approx(sum(grades[:5]) / 5)
    assert f"e, test: grade {percent(found['grade'])} %" in caplog.messages


def test_verdicts_from_before_there_were_grades_are_refused_and_overwrite_judges_anew(workspace, judge, mistakes):
    store_predictions(workspace, "e", SIX)
    judge(f"{RULE}--experiment_name e")
    path = workspace.verdicts("e", "test", "pocket")
    rows = [{key: value for key, value in row.items() if key != "grade"} for row in verdicts(workspace, "e")]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = path.with_suffix(".settings.json")
    settings.write_text(json.dumps(read_recorded(settings) | {"revision": GRAMMAR_REVISION}))
    (line,) = mistakes(f"{RULE}--experiment_name e")
    assert line.startswith("e was judged by pocket under other settings (revision was ")
    found = judge(f"{RULE}--experiment_name e --overwrite")["e"]["stages"]["test"]
    assert found["grade"]["mean"] > 0.6
    assert [row["verdict"] for row in verdicts(workspace, "e")] == SIX_VERDICTS


def test_the_interval_is_that_of_the_asked_resamples_and_seed(workspace, judge):
    store_predictions(workspace, "e", [right(number) if number % 3 else wrong(number) for number in range(40)])
    intervals = []
    for flags in ("--bootstrap_resamples 60 --seed 1", "--bootstrap_resamples 60 --seed 2", "--bootstrap_resamples 90 --seed 2"):
        intervals.append(judge(f"--judge_model_name_or_path pocket --experiment_name e {flags}")["e"]["stages"]["test"]["yes"])
    values = [float(bool(number % 3)) for number in range(40)]
    inputs = [name_of_input(right(number)[0]) for number in range(40)]
    assert intervals == [asdict(bootstrap_interval(values, inputs, *how)) for how in ((60, 1), (60, 2), (90, 2))]
    assert intervals[0] != intervals[1] != intervals[2]
    assert all(0 < one["low"] < one["mean"] == 26 / 40 < one["high"] < 1 for one in intervals)


def test_every_set_of_pockets_is_judged_by_its_own_inputs_and_style_in_one_call(workspace, judge):
    sets = {name: one for name, one in all_datasets(Locations(Path("none"), raw=None)).items() if one.benchmark == "pocket"}
    for name, dataset in sets.items():
        style = "_".join(task.variant for task in dataset.tasks if task.variant) or "en"
        other = "casual" if style == "en" else "en"
        first, second, third = examples(name.split("_")[1], "test")[:3]
        pairs = [
            (first.input, render_all(first.meaning, style)),
            (second.input, render_all(second.meaning, other)),
            (third.input, ""),
        ]
        main, secondary = (dataset.inputs_of, name) if dataset.is_compositional else (name, None)
        store_predictions(workspace, f"on_{name}", pairs, dataset=main, secondary=secondary)
    names = [f"on_{name}" for name in sets]
    records = judge(f"{RULE}--experiment_name {' '.join(names)}")
    assert len(names) == 26
    assert list(records) == names
    for name in names:
        assert [row["verdict"] for row in verdicts(workspace, name)] == ["yes", "no", "no"], name
        assert records[name] == read_recorded(workspace.judgement(name, "pocket"))
        assert records[name]["experiment"] == name


def test_experiments_can_be_named_one_by_one(workspace, judge):
    for name in ("one", "two", "three"):
        store_predictions(workspace, name, SIX)
    assert list(judge(f"{RULE}--experiment_name one --experiment_name two three")) == ["one", "two", "three"]


def test_an_experiment_that_is_named_twice_is_judged_once(workspace, judge, caplog):
    store_predictions(workspace, "e", SIX)
    with caplog.at_level("INFO"):
        assert list(judge(f"{RULE}--experiment_name e e")) == ["e"]
    assert caplog.text.count("e, test, 5 of 6 examples judged") == 1


def test_a_second_run_asks_nothing_and_ends_in_the_same_record(workspace, judge):
    store_predictions(workspace, "e", SIX)
    first = judge(f"{RULE}--experiment_name e")["e"]
    path = workspace.verdicts("e", "test", "pocket")
    before = path.stat().st_mtime_ns
    second = judge(f"{RULE}--experiment_name e")["e"]
    assert path.stat().st_mtime_ns == before
    assert (
        without_environment(second)
        == without_environment(first)
        == without_environment(read_recorded(workspace.judgement("e", "pocket")))
    )


@pytest.mark.parametrize("size", [1, 2, 4])
def test_an_interrupted_run_goes_on_after_the_last_whole_line(size, workspace, judge):
    store_predictions(workspace, "e", SIX)
    judge(f"{RULE}--experiment_name e --batch_size 2")
    path = workspace.verdicts("e", "test", "pocket")
    path.unlink()
    kept = [{"id": f"test_{number}", "verdict": "no", "reply": "NO from before", "failure": None} for number in range(3)]
    partial_of(path).write_text("\n".join([*map(json.dumps, kept), '{"id": "test_3", "verd']))
    record = judge(f"{RULE}--experiment_name e --batch_size {size}")["e"]
    found = verdicts(workspace, "e")
    assert found[:3] == kept
    assert [row["verdict"] for row in found[3:]] == SIX_VERDICTS[3:]
    assert "from before" not in str(found[3:])
    assert [row["id"] for row in found] == [f"test_{number}" for number in range(6)]
    assert record["stages"]["test"]["counts"] == {"examples": 6, "judged": 5, "yes": 2, "failures": {NOT_POCKETS: 1}}
    assert not partial_of(path).exists()


@pytest.mark.parametrize("finished", [True, False], ids=["finished", "interrupted"])
def test_verdicts_on_other_predictions_are_refused_and_overwrite_judges_anew(finished, workspace, judge, mistakes):
    store_predictions(workspace, "e", SIX)
    judge(f"{RULE}--experiment_name e --batch_size 2")
    path = workspace.verdicts("e", "test", "pocket")
    if not finished:
        path.rename(partial_of(path))
    store_predictions(workspace, "e", [wrong(number) for number in range(6)])
    before = files_in(workspace)
    (line,) = mistakes(f"{RULE}--experiment_name e --batch_size 2")
    assert line.startswith("e was judged by pocket under other settings (hash_of_predictions was ")
    assert line.endswith("--overwrite judges it anew")
    assert files_in(workspace) == before
    record = judge(f"{RULE}--experiment_name e --overwrite")["e"]
    assert [row["verdict"] for row in verdicts(workspace, "e")] == ["no"] * 6
    assert record["stages"]["test"]["yes"] == {"mean": 0.0, "low": 0.0, "high": pytest.approx(0.3903, abs=1e-4)}
    assert not partial_of(path).exists()
    judge(f"{RULE}--experiment_name e")


def test_overwrite_throws_verdicts_away_and_those_of_an_interrupted_run_too(workspace, judge, mistakes):
    store_predictions(workspace, "e", SIX)
    judge(f"{RULE}--experiment_name e")
    path = workspace.verdicts("e", "test", "pocket")
    path.write_text(path.read_text().replace('"yes"', '"no"'))
    (line,) = mistakes(f"{RULE}--experiment_name e")
    assert line.startswith(f"{path} has changed since it was written")
    path.rename(partial_of(path))
    assert judge(f"{RULE}--experiment_name e --overwrite")["e"]["stages"]["test"]["counts"]["yes"] == 3


def test_all_refusals_of_a_call_come_together_before_anything_is_judged(workspace, judge, mistakes):
    names = ("one", "two", "three")
    for name in names:
        store_predictions(workspace, name, SIX)
    judge(f"{RULE}--experiment_name two three")
    for name in names:
        store_predictions(workspace, name, [right(0)])
    lines = mistakes(f"{RULE}--experiment_name {' '.join(names)}")
    assert [line.split(" ")[0] for line in lines] == ["two", "three"]
    assert not workspace.verdicts("one", "test", "pocket").exists()
    assert not workspace.judgement("one", "pocket").exists()


def test_the_validation_split_is_judged_by_its_own_inputs_and_kept_beside_the_test_split(workspace, judge):
    store_predictions(workspace, "e", SIX)
    store_predictions(workspace, "e", [right(0, "validation"), right(1, "validation"), right(0)], stage="valid")
    test = judge(f"{RULE}--experiment_name e")["e"]["stages"]["test"]
    record = judge(f"{RULE}--experiment_name e --stage valid")["e"]
    assert record["stages"]["test"] == test
    assert record["stages"]["valid"]["counts"] == {"examples": 3, "judged": 2, "yes": 2, "failures": {NOT_POCKETS: 1}}
    assert [row["id"] for row in verdicts(workspace, "e", stage="valid")] == ["valid_0", "valid_1", "valid_2"]
    assert [row["verdict"] for row in verdicts(workspace, "e")] == SIX_VERDICTS
    again = judge(f"{RULE}--experiment_name e --stage test --overwrite")["e"]
    assert again["stages"]["valid"] == record["stages"]["valid"]
    assert read_recorded(workspace.judgement("e", "pocket")) == again


@pytest.mark.parametrize(("pairs", "failures"), [([], {}), ([("a", "b"), ("c", "d")], {NOT_POCKETS: 2})])
def test_without_any_verdict_there_is_no_share_of_yes(pairs, failures, workspace, judge, caplog):
    store_predictions(workspace, "e", pairs)
    with caplog.at_level("INFO"):
        found = judge(f"{RULE}--experiment_name e")["e"]["stages"]["test"]
    assert found["yes"] is None
    assert found["counts"] == {"examples": len(pairs), "judged": 0, "yes": 0, "failures": failures}
    assert f"0 of {len(pairs)} examples judged: no verdict at all" in caplog.text


def test_the_share_and_the_failures_are_shown(workspace, judge, caplog):
    store_predictions(workspace, "e", SIX)
    with caplog.at_level("INFO"):
        judge(f"{RULE}--experiment_name e")
    assert "e, test, 5 of 6 examples judged: yes 60.0 [13.1, 93.7] %" in caplog.messages
    assert f"e, test: 1 not judged: {NOT_POCKETS}" in caplog.messages
    assert str(workspace.judgement("e", "pocket")) in caplog.messages


def test_an_experiment_that_another_run_judges_is_refused(workspace, mistakes):
    store_predictions(workspace, "e", SIX)
    with workspace.locked(judgement="e.pocket"):
        (line,) = mistakes(f"{RULE}--experiment_name e")
    assert "in use by another run" in line
    assert not workspace.verdicts("e", "test", "pocket").exists()


def test_an_experiment_that_is_running_is_not_judged_and_one_that_is_judged_does_not_run(workspace, mistakes, judge):
    store_predictions(workspace, "e", SIX)
    with workspace.locked(experiment="e"):
        (line,) = mistakes(f"{RULE}--experiment_name e")
    assert line == "experiment e is in use by another run; wait for it to end or choose another name"
    with workspace.locked(experiment="e", shared=True):  # by another judge
        with pytest.raises(UserError, match="in use by another run"), workspace.locked(experiment="e"):
            pass
        judge(f"{RULE}--experiment_name e")
    assert workspace.verdicts("e", "test", "pocket").is_file()


TABLE = """\
| method |  ROUGE-L % [95 %] | LLM-J (rule) % [95 %] | exact match % | inferences | extra parameters | extra bytes | seconds |
|--------|------------------:|----------------------:|--------------:|-----------:|-----------------:|------------:|--------:|
| asked  | 50.0 [40.0, 60.0] |    60.0 [20.0, 100.0] |          25.0 |         1× |            1,984 |       4,560 |      34 |
| never  | 75.0 [65.0, 85.0] |        0.0 [0.0, 0.0] |          25.0 |         1× |            1,984 |       4,560 |      34 |
| silent | 50.0 [40.0, 60.0] |                     — |          25.0 |         1× |            1,984 |       4,560 |      34 |
| other  | 50.0 [40.0, 60.0] |                     — |          25.0 |         1× |            1,984 |       4,560 |      34 |
"""


def results(mean: float) -> dict[str, Any]:
    """As much of a results.json as a table shows."""
    interval = {"mean": mean, "low": mean - 0.1, "high": mean + 0.1}
    scores = {"headline_metric": "rougeL", "metrics": {"rougeL": interval, "exact_match": {"mean": 0.25}}}
    cost = {"inferences_per_example": 1, "extra_parameters": 1984, "extra_bytes": 4560}
    return {"stages": {"valid": scores, "test": scores}, "cost": cost, "seconds": {"total": 33.6}}


def judgement(yes: dict[str, float] | None, kind: str = "rule", grade: dict[str, float] | None = None) -> dict[str, Any]:
    """As much of a judge's record as a table shows."""
    return {"stages": {"test": {"yes": yes, "grade": grade, "settings": {"judge": kind}}}}


def test_a_table_has_the_judges_column_and_a_dash_where_there_is_no_verdict():
    rows = [
        ComparedExperiment("asked", results(0.5), judgement({"mean": 0.6, "low": 0.2, "high": 1.0})),
        ComparedExperiment("never", results(0.75), judgement({"mean": 0.0, "low": 0.0, "high": 0.0})),
        ComparedExperiment("silent", results(0.5), judgement(None)),
        ComparedExperiment("other", results(0.5)),
    ]
    assert markdown_table(rows) == TABLE


def test_a_table_has_a_column_of_grades_and_a_dash_where_a_judge_gives_none():
    none, half = ({"mean": mean, "low": mean, "high": mean} for mean in (0.0, 0.5))
    older = judgement(half)
    del older["stages"]["test"]["grade"]
    rows = [
        ComparedExperiment("rule", results(0.5), judgement(none, grade=half)),
        ComparedExperiment("model", results(0.5), judgement(half, "vllm")),
        ComparedExperiment("older", results(0.5), older),
        ComparedExperiment("silent", results(0.5)),
    ]
    header, _, *lines = markdown_table(rows).splitlines()
    assert [cell.strip() for cell in header.split("|")[3:5]] == ["LLM-J (rule, vllm) % [95 %]", "grade % [95 %]"]
    yes, zero, dash = "50.0 [50.0, 50.0]", "0.0 [0.0, 0.0]", "—"
    shown = [[cell.strip() for cell in line.split("|")[3:5]] for line in lines]
    assert shown == [[zero, yes], [yes, dash], [yes, dash], [dash, dash]]
    assert "grade" not in markdown_table(rows[1:])


def test_a_table_without_judgements_has_no_judges_column():
    lines = markdown_table([ComparedExperiment("One", results(0.5)), ComparedExperiment("Two", results(0.5), None)]).splitlines()
    assert "LLM-J" not in lines[0]
    assert {line.count("|") for line in lines} == {8}
    assert "—" not in "".join(lines)


def test_a_table_names_all_kinds_of_judges():
    share = {"mean": 0.5, "low": 0.4, "high": 0.6}
    rows = [
        ComparedExperiment("a", results(0.5), judgement(share, "vllm")),
        ComparedExperiment("b", results(0.5), judgement(share, "rule")),
    ]
    assert "| LLM-J (rule, vllm) % [95 %] |" in markdown_table(rows)


def test_a_table_shows_the_record_of_the_real_command(workspace, judge):
    store_predictions(workspace, "e", SIX)
    store_predictions(workspace, "none", [("a", "b")])
    records = judge(f"{RULE}--experiment_name e none")
    lines = markdown_table([ComparedExperiment(name, results(0.5), record) for name, record in records.items()]).splitlines()
    assert [line.split("|")[3].strip() for line in lines] == [
        "LLM-J (rule) % [95 %]",
        lines[1].split("|")[3],
        "60.0 [13.1, 93.7]",
        "—",
    ]


def test_a_line_that_is_no_prediction_is_an_error_that_names_it(workspace, mistakes):
    path = store_predictions(workspace, "e", SIX)
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text("".join([*lines[:2], '{"id": "test_2"}\n', *lines[3:]]), encoding="utf-8")
    (line,) = mistakes(f"{RULE}--experiment_name e")
    assert line.startswith(f"{path}, line 3: not a prediction")
