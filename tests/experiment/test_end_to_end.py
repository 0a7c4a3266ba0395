"""Every method, by the real command, on three architectures and on Pocket's data."""

from __future__ import annotations

import json

import pytest

from compositional.core.errors import UserError
from compositional.core.files import read_json
from compositional.core.workspace import Workspace
from helpers import ARCHITECTURES
from helpers.tiny_runs import COMPOSED, METHODS, TINY_RUN, ZERO_SHOT


@pytest.mark.slow(10)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_method_runs_and_records_its_results(architecture, finished):
    workspace = Workspace(finished(architecture))
    results = {name: read_json(workspace.results(name)) for name in METHODS}
    for name, result in results.items():
        assert result["stages"]["test"]["counts"]["examples"] == 8, name
        lines = workspace.predictions(name, "test").read_text().splitlines()
        assert [json.loads(line)["id"] for line in lines] == sorted({json.loads(line)["id"] for line in lines}, key=_number), name
        assert (
            0 <= result["stages"]["test"]["metrics"]["rougeL"]["low"] <= result["stages"]["test"]["metrics"]["rougeL"]["high"] <= 1
        )
    assert results["multi_step"]["cost"]["inferences_per_example"] == 2
    d_outs = 64 + 32 + 32 + 64 + 48 + 48 + 64
    assert results["lc"]["cost"]["extra_parameters"] == d_outs
    d_sums = 128 + 96 + 96 + 128 + 112 + 112 + 112
    assert results["lc_pp"]["cost"]["extra_parameters"] == 4 * d_sums
    assert results["joint_expert"]["cost"]["extra_parameters"] == 2 * 4 * d_sums
    assert results["lc_by_shape"]["cost"]["extra_parameters"] == 64 + 32 + 48 + 64
    calibration = workspace.stored_model("lc_pp") / "calibration.safetensors"
    assert results["lc_pp"]["cost"]["extra_bytes"] == calibration.stat().st_size


def _number(example_id: str) -> int:
    return int(example_id.rsplit("_", 1)[1])


@pytest.mark.slow
def test_validation_and_test_splits_are_predicted_in_one_command(run, workspace, tiny_models):
    run(
        f"{TINY_RUN}--model_name_or_path {tiny_models['llama']} --experiment_name sums --dataset pocket_dialogs "
        "--stored_model_name sums --do_train --do_valid --do_predict"
    )
    stages = read_json(workspace.results("sums"))["stages"]
    assert {name: stage["counts"]["examples"] for name, stage in stages.items()} == {"valid": 4, "test": 6}
    assert not workspace.training("sums").exists()


def test_a_finished_experiment_is_not_run_again(run, workspace, tiny_models, caplog):
    command = f"{ZERO_SHOT}--model_name_or_path {tiny_models['llama']} --do_predict"
    run(command)
    before = workspace.results("z").stat().st_mtime_ns
    with caplog.at_level("INFO"):
        run(command)
    assert "done already" in caplog.text
    assert workspace.results("z").stat().st_mtime_ns == before
    run(f"{command} --overwrite")
    assert workspace.results("z").stat().st_mtime_ns > before


def test_other_settings_under_the_same_name_are_refused(run, tiny_models):
    command = f"{ZERO_SHOT}--model_name_or_path {tiny_models['llama']} --do_predict"
    run(command)
    with pytest.raises(UserError, match="max_new_tokens was 8, is 9"):
        run(f"{command} --max_new_tokens 9")
    run(f"{command} --max_new_tokens 9 --overwrite")


def test_a_stage_can_be_added_to_a_finished_experiment(run, workspace, tiny_models):
    command = f"{ZERO_SHOT}--model_name_or_path {tiny_models['llama']} "
    run(f"{command}--do_valid")
    run(f"{command}--do_predict")
    assert set(read_json(workspace.results("z"))["stages"]) == {"valid", "test"}


def test_a_second_run_of_an_experiment_under_way_is_refused(run, workspace, tiny_models):
    with workspace.locked(experiment="z"), pytest.raises(UserError, match="in use by another run"):
        run(f"{ZERO_SHOT}--model_name_or_path {tiny_models['llama']} --do_predict")


@pytest.mark.slow
def test_an_adapter_of_another_experiment_is_not_overwritten(run, tiny_models):
    base = f"{TINY_RUN}--model_name_or_path {tiny_models['llama']} --dataset pocket_dialogs --do_train --stored_model_name sums "
    run(f"{base}--experiment_name one")
    with pytest.raises(UserError, match="was made by experiment one"):
        run(f"{base}--experiment_name two")


@pytest.mark.slow
def test_an_adapter_that_does_not_fit_the_base_model_is_refused(run, workspace, tiny_models, tmp_path):
    import shutil

    from transformers import AutoConfig, AutoModelForCausalLM

    changed = tmp_path / "changing"
    shutil.copytree(tiny_models["llama"], changed)
    base = f"{TINY_RUN}--model_name_or_path {changed} --dataset pocket_dialogs "
    run(f"{base}--experiment_name one --do_train --stored_model_name sums")
    shutil.rmtree(changed)
    shutil.copytree(tiny_models["qwen2"], changed)
    config = AutoConfig.from_pretrained(changed)
    config.intermediate_size = 64
    AutoModelForCausalLM.from_config(config).save_pretrained(changed)
    with pytest.raises(UserError, match="does not fit"):
        run(f"{base}--experiment_name two --do_predict --stored_model_name sums")
    assert not workspace.output("two").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--zero_shot --do_predict --max_length 10", "raise the maximum length"),
        ("--do_train --stored_model_name s --lora_target_modules query", "linear modules of .* are down_proj"),
        ("--do_train --stored_model_name s --lr_scheduler_type cosin", "cosin is not a valid"),
        ("--do_train --stored_model_name s --trainer optim=sdg", "sdg is not a valid"),
    ],
)
def test_what_would_stop_a_run_on_its_way_is_said_before_anything_is_written(flags, message, run, workspace, tiny_models):
    with pytest.raises(UserError, match=message):
        run(f"{TINY_RUN}--model_name_or_path {tiny_models['llama']} --experiment_name e --dataset pocket_dialogs {flags}")
    assert not workspace.root.exists()


@pytest.mark.slow
def test_a_prompt_style_holds_in_training_as_in_prediction(run, tiny_models, monkeypatch):
    from compositional.models.chat import ChatEncoder

    asked = set()
    original = ChatEncoder._chat_ids

    def remember(self, instruction: str, text: str) -> list[int]:
        asked.add(instruction)
        return original(self, instruction, text)

    monkeypatch.setattr(ChatEncoder, "_chat_ids", remember)
    run(
        f"{TINY_RUN}--model_name_or_path {tiny_models['llama']} --experiment_name j {COMPOSED}--stored_model_name j "
        "--multi_task_train_targets --do_train --do_predict --prompt_style empty"
    )
    assert asked == {"Summarize the following text"}
