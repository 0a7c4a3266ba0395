"""What was made with other settings, records of older versions included: of experiments, predictions and verdicts."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import pytest

import llm_judge_eval
import run_experiment
from compositional.adapters.peft_folder import WEIGHTS_FILE
from compositional.core.errors import UserError
from compositional.core.files import write_json
from compositional.core.recorded import (
    ARITHMETIC,
    NO_FLAG,
    changes,
    read_recorded,
    read_whole_record,
    refusal,
    wrong_parts,
)
from compositional.experiment.finished import finished_experiment
from compositional.experiment.resume import ADAPTER_RECORD
from compositional.judge.plan import judge_flag_if_left_out
from helpers.judging import right, store_predictions
from helpers.tiny_runs import COMPOSED, TINY_RUN, ZERO_SHOT


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
    record = read_recorded(path)
    for part in (record, record.get("settings", {}), record.get("arguments", {})):
        for key in keys:
            part.pop(key, None)
    write_json(path, record)


FORM = {"a": int, "b?": {"*": {"mean": float}}, "c?": [str]}


@pytest.mark.parametrize(
    ("value", "wrong"),
    [
        ({"a": 1}, []),
        ({"a": 1, "b": {"x": {"mean": 0}, "y": {"mean": 0.5}}, "c": ["d"], "e": None}, []),
        ({}, ["a"]),
        ({"a": True}, ["a"]),
        ({"a": 1.5}, ["a"]),
        ({"a": 1, "b": None}, ["b"]),
        ({"a": 1, "b": {"x": 5, "y": {}}}, ["b.x", "b.y.mean"]),
        ({"a": 1, "c": ["d", 5]}, ["c"]),
    ],
)
def test_the_wrong_parts_of_a_record_are_named(value, wrong, tmp_path):
    assert wrong_parts(value, FORM) == wrong
    write_json(tmp_path / "record.json", value)
    if not wrong:
        assert read_whole_record(tmp_path / "record.json", **FORM) == value
        return
    with pytest.raises(UserError) as caught:
        read_whole_record(tmp_path / "record.json", **FORM)
    expected = f"{tmp_path / 'record.json'} is damaged: {', '.join(wrong)} is expected in it; remove the file, and make it again"
    assert list(caught.value.mistakes) == [expected]


@pytest.fixture(scope="module")
def zero_shot_run(tiny_models, tmp_path_factory) -> tuple[Path, str]:
    """The workspace of a finished experiment z with verdicts, and its command. Records have no hash of their own, as older ones."""
    folder = tmp_path_factory.mktemp("records")
    command = f"{ZERO_SHOT}--model_name_or_path {tiny_models['llama']} --do_predict "
    run_experiment.run([*command.split(), "--workspace", str(folder)])
    words = f"--experiment_name z --judge_model_name_or_path pocket --workspace {folder}"
    llm_judge_eval.run(words.split())
    for path in folder.rglob("*.json"):
        write_json(path, read_recorded(path))
    return folder, command


DAMAGES = {
    "results.json": [
        *(("stages.test", None), ("stages.test.headline_metric", 5), ("stages.test.metrics", []), ("stages.test.counts", {})),
        *(("stages.test.metrics.chrf", 5), ("settings", []), ("arguments", None), ("arithmetic", 2), ("arithmetic", ["x"])),
    ],
    "settings.json": [("hashes_of_files", 5), ("hashes_of_files", {"test.jsonl": 5}), ("made_by", []), ("made_by", {"test": 5})],
    "judge_pocket.json": [("stages", 5), ("stages.test", 5), ("stages.test.counts", {}), ("stages.test.hash_of_verdicts", 5)],
}


@pytest.mark.parametrize(("file", "part", "value"), [(file, *one) for file, several in DAMAGES.items() for one in several], ids=str)
def test_a_damaged_record_is_one_line_in_every_command_that_reads_it(file, part, value, zero_shot_run, workspace, run, judge):
    folder, command = zero_shot_run
    shutil.copytree(folder, workspace.root)
    (path,) = workspace.root.rglob(f"*/z/{file}")
    record = read_recorded(path)
    *above, last = part.split(".")
    place = record
    for name in above:
        place = place[name]
    place[last] = value
    write_json(path, record)
    if file == "settings.json":
        workspace.results("z").unlink()  # the experiment is not done, and reads its predictions again
    judges = "--experiment_name z --judge_model_name_or_path pocket"
    for act in [lambda: run(command)] if file != "judge_pocket.json" else [lambda: judge(judges)]:
        with pytest.raises(UserError) as caught:
            act()
        (line,) = caught.value.mistakes
        assert line.startswith(f"{path} is damaged: {part}")
    if file == "results.json":
        with pytest.raises(UserError, match="is damaged"):
            finished_experiment("z", workspace)


def test_arguments_of_another_type_in_results_are_one_line(zero_shot_run, workspace):
    shutil.copytree(zero_shot_run[0], workspace.root)
    record = read_recorded(workspace.results("z"))
    record["arguments"] |= {"dataset": 5, "lora_merge_modules": "a", "learning_rate": None, "do_predict": 1, "an_older_flag": 5}
    write_json(workspace.results("z"), record)
    with pytest.raises(UserError) as caught:
        finished_experiment("z", workspace)
    (line,) = caught.value.mistakes
    assert line.startswith(f"{workspace.results('z')} is damaged: of its arguments, ")
    for fault in ("dataset is 5", "lora_merge_modules is 'a'", "learning_rate is None", "do_predict is 1"):
        assert fault in line
    assert "an_older_flag" not in line


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
        assert read_recorded(workspace.results("zero"))["arguments"]["rouge_tokenizer"] == "paper"
        return
    with pytest.raises(UserError, match=f"predictions of zero exists with other settings \\({lacking} was"):
        run(f"{command}{other}")


LC = (
    f"{TINY_RUN}{COMPOSED}--experiment_name lc --lora_merge_strategy learnable_calibration --for_each_component "
    "--merge_datasets pocket_dialogs_es --num_examples_merge 16 --lora_merge_modules sums translation --do_predict "
)


def as_in_the_first_version(path: Path) -> None:
    """A record of a calibration before there was --calibrate and a version of the arithmetic."""
    record = read_recorded(path)
    for part in (record, record.get("settings", {}), record.get("arguments", {})):
        if "calibrate" in part:
            part["lora_merge_strategy"] = part.pop("calibrate")
        part.pop("arithmetic", None)
    for part in ("made_by", "predictions_made_by"):
        record[part] = {name: {"backend": "transformers"} for name in record.get(part, {})}
    write_json(path, record)


@pytest.mark.slow
def test_a_calibration_of_the_first_version_is_kept_and_its_results_say_so(run, trained, workspace, caplog):
    run(LC)
    assert read_recorded(workspace.results("lc"))["arithmetic"] == [ARITHMETIC]
    adapter, predictions = workspace.stored_model("lc") / ADAPTER_RECORD, workspace.predictions_folder("lc") / "settings.json"
    for path in (adapter, predictions, workspace.results("lc")):
        as_in_the_first_version(path)
    weights = (workspace.stored_model("lc") / WEIGHTS_FILE).read_bytes()
    with caplog.at_level(logging.INFO, "compositional"):
        run(LC)
    assert "done already" in caplog.text
    run(f"{LC}--do_valid")
    assert (workspace.stored_model("lc") / WEIGHTS_FILE).read_bytes() == weights
    assert read_recorded(workspace.results("lc"))["arithmetic"] == [1, ARITHMETIC]
    with pytest.raises(UserError) as caught:
        run(f"{LC}--calibration_epochs 2")
    assert list(caught.value.mistakes) == [
        "adapter lc exists with other settings (calibration_epochs was 1.0, is 2.0): choose another name, or --overwrite"
    ]


def test_predictions_that_another_version_left_unfinished_are_refused(run, workspace, tiny_models):
    command = f"{TINY_RUN}--model_name_or_path {tiny_models['llama']} {COMPOSED}--experiment_name zero --zero_shot --do_predict "
    run(command)
    rows, settings = workspace.predictions("zero", "test"), workspace.predictions_folder("zero") / "settings.json"
    whole = rows.read_bytes()
    workspace.results("zero").unlink()
    rows.rename(f"{rows}.partial")
    Path(f"{rows}.partial").write_bytes(b"".join(whole.splitlines(keepends=True)[:3]))
    record = read_recorded(settings)
    write_json(settings, record | {"made_by": {"test": {"backend": "transformers"}}})
    with pytest.raises(UserError) as caught:
        run(command)
    (line,) = caught.value.mistakes
    assert f"{rows}.partial was left unfinished by another version of this project" in line
    assert f"version 1 of the arithmetic, now {ARITHMETIC}" in line
    assert "--overwrite" in line
    write_json(settings, record)
    run(command)
    assert rows.read_bytes() == whole
    assert read_recorded(workspace.results("zero"))["arithmetic"] == [ARITHMETIC]


@pytest.mark.slow
def test_an_adapter_that_another_version_left_in_training_is_refused(run, trained, workspace, tiny_models):
    command = f"{TINY_RUN}--model_name_or_path {tiny_models['llama']} --do_train --experiment_name sums --dataset pocket_dialogs "
    settings = read_recorded(workspace.stored_model("sums") / ADAPTER_RECORD)["settings"]
    write_json(workspace.training("sums") / "settings.json", settings)
    run(f"{command}--stored_model_name sums")  # it is finished: what is beside it does not matter
    shutil.rmtree(workspace.stored_model("sums"))
    write_json(workspace.training("sums") / "settings.json", settings)
    with pytest.raises(UserError, match="adapter sums was left unfinished by another version of this project"):
        run(f"{command}--stored_model_name sums")
    write_json(workspace.training("sums") / "settings.json", settings | {"arithmetic": [ARITHMETIC]})
    run(f"{command}--stored_model_name sums")
    assert read_recorded(workspace.stored_model("sums") / ADAPTER_RECORD)["arithmetic"] == [ARITHMETIC]


def test_verdicts_of_a_version_without_a_flag_are_those_of_its_default(workspace, judge, server):
    store_predictions(workspace, "e", [right(0), right(1)])
    asked = f"--experiment_name e --judge_model_name_or_path judge --judge_url {server.url} "
    judge(asked)
    path = workspace.verdicts("e", "test", "judge").with_suffix(".settings.json")
    settings = read_recorded(path)
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
