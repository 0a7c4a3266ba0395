"""What was made with other settings, records of older versions included: of experiments, predictions and verdicts."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from compositional.core.errors import UserError
from compositional.core.files import read_json, write_json
from compositional.core.recorded import NO_FLAG, changes, read_recorded, refusal
from compositional.judge.plan import judge_flag_if_left_out
from helpers.judging import right, store_predictions
from helpers.tiny_runs import COMPOSED, TINY_RUN


def test_only_what_has_changed_is_listed_and_nothing_without_a_record():
    now = {"seed": 1, "rank": 8, "hash_of_data": "a"}
    assert changes({}, now) == {}
    assert changes(now, now) == {}
    assert changes({"seed": 0, "rank": 8, "gone": 3}, now) == {"seed": (0, 1)}
    changed = changes({"seed": 0, "rank": 4}, now)
    assert refusal("it exists", changed, "choose another name") == [
        "it exists (rank was 4, is 8; seed was 0, is 1): choose another name"
    ]
    assert refusal("it exists", {}, "choose another name") == []


def test_a_key_that_a_record_lacks_counts_as_the_flag_left_out_and_what_is_no_flag_is_not_compared():
    left_out = {"repetition_penalty": 1.0}
    for value, expected in ((1.0, {}), (5.0, {"repetition_penalty": (1.0, 5.0)})):
        now = {"seed": 0, "repetition_penalty": value, "hash_of_data": "a"}
        assert changes({"seed": 0}, now, lambda key: left_out.get(key, NO_FLAG)) == expected


def test_one_value_of_an_earlier_version_is_the_same_as_the_list_of_it_now():
    earlier = {"secondary_task": "translation", "secondary_stored_model_name": None, "seed": 0}
    now = {"secondary_task": ["translation"], "secondary_stored_model_name": [], "seed": 0}
    assert changes(earlier, now) == {}
    assert list(changes(earlier, now | {"secondary_task": ["tone_adjustment"]})) == ["secondary_task"]


def test_a_record_that_is_no_object_is_one_line(tmp_path):
    assert read_recorded(tmp_path / "none.json") == {}
    (tmp_path / "settings.json").write_text("[1]")
    with pytest.raises(UserError, match="expected a JSON object of settings"):
        read_recorded(tmp_path / "settings.json")


def without(path: Path, *keys: str) -> None:
    """A record as a version wrote it that had no such flags."""
    record = read_json(path)
    for part in (record, record.get("settings", {}), record.get("arguments", {})):
        for key in keys:
            part.pop(key, None)
    write_json(path, record)


@pytest.mark.parametrize(
    ("lacking", "same", "other"),
    [
        ("in_context_examples", "", "--in_context_examples 2"),
        ("max_new_tokens", None, ""),  # TINY_RUN has another number than the default
        ("rouge_tokenizer", "--rouge_tokenizer auto", "--rouge_tokenizer paper"),
        ("prompt_style", "--prompt_style compositional", "--prompt_style empty"),
    ],
)
def test_results_of_a_version_without_a_flag_are_those_of_its_default(lacking, same, other, run, workspace, tiny_models, caplog):
    command = f"{TINY_RUN}--model_name_or_path {tiny_models['llama']} {COMPOSED}--experiment_name zero --zero_shot --do_predict "
    run(command)
    for path in (workspace.results("zero"), workspace.predictions_folder("zero") / "settings.json"):
        without(path, lacking)
    before = workspace.results("zero").read_bytes()
    if same is not None:
        with caplog.at_level(logging.INFO, "compositional"):
            run(f"{command}{same}")
        assert "done already" in caplog.text
        assert workspace.results("zero").read_bytes() == before
    if lacking == "rouge_tokenizer":  # scoring is done anew, without a new name
        run(f"{command}{other}")
        assert read_json(workspace.results("zero"))["arguments"]["rouge_tokenizer"] == "paper"
        return
    with pytest.raises(UserError, match=f"predictions of zero exists with other settings \\({lacking} was"):
        run(f"{command}{other}")


def test_verdicts_of_a_version_without_a_flag_are_those_of_its_default(workspace, judge, server):
    store_predictions(workspace, "e", [right(0), right(1)])
    asked = f"--experiment_name e --judge_model_name_or_path judge --judge_url {server.url} "
    judge(asked)
    path = workspace.verdicts("e", "test", "judge").with_suffix(".settings.json")
    settings = json.loads(path.read_text())
    write_json(path, {key: value for key, value in settings.items() if key != "root"})
    judge(asked)
    write_json(path, settings | {"revision": "another"})
    with pytest.raises(UserError, match="was judged by judge under other settings \\(revision was another"):
        judge(asked)


def test_a_flag_of_the_judge_that_older_verdicts_lack_counts_as_left_out():
    recorded = {"judge": "vllm", "model": "judge", "revision": "a"}
    now = recorded | {"dtype": "float32", "max_model_len": 64}
    assert changes(recorded, now, judge_flag_if_left_out) == {"dtype": ("auto", "float32")}
    assert changes(recorded, now | {"dtype": "auto"}, judge_flag_if_left_out) == {}
