"""An interrupted run goes on with the same command and ends in the same results."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

import pytest

from compositional.adapters.peft_folder import WEIGHTS_FILE
from compositional.core.files import read_json
from compositional.core.workspace import Workspace
from helpers.running import command, finish, predicted_lines, start, wait_until

pytestmark = pytest.mark.usefixtures("one_thread")  # as many as the processes have
TRAIN = "--experiment_name sums --dataset pocket_dialogs --stored_model_name sums --do_train --max_train_examples 160 --do_predict"


def checkpoints(workspace: Workspace) -> list[Path]:
    return list(workspace.training("sums").glob("checkpoint-*/hashes.json"))


def times_begun(workspace: Workspace) -> int:
    """How often a training's first update was made."""
    return (workspace.logs("sums") / "run.log").read_text().count("update 1: ")


@pytest.fixture(scope="module")
def uninterrupted(tiny_models, tmp_path_factory) -> Workspace:
    workspace = Workspace(tmp_path_factory.mktemp("uninterrupted"))
    finish(command(tiny_models["llama"], workspace, TRAIN))
    return workspace


def assert_same_results(one: Workspace, two: Workspace) -> None:
    weights = [workspace.stored_model("sums") / WEIGHTS_FILE for workspace in (one, two)]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    predictions = [workspace.predictions("sums", "test").read_bytes() for workspace in (one, two)]
    assert predictions[0] == predictions[1]
    stages = [read_json(workspace.results("sums"))["stages"] for workspace in (one, two)]
    assert stages[0] == stages[1]


@pytest.mark.slow(20)
def test_killed_in_training_then_killed_in_prediction(tiny_models, uninterrupted, workspace, tmp_path):
    log = tmp_path / "log"
    words = command(tiny_models["llama"], workspace, TRAIN)
    process = start(words, log)
    wait_until(lambda: bool(checkpoints(workspace)), process, log)
    process.kill()
    process.wait()
    assert not workspace.stored_model("sums").exists()

    process = start(words, log)
    wait_until(lambda: predicted_lines(workspace) >= 4, process, log)
    process.kill()
    process.wait()
    assert not workspace.predictions("sums", "test").exists()
    done = predicted_lines(workspace)

    assert start(words, log).wait() == 0, log.read_text()[-2000:]  # a process of its own logs how it resumes
    assert 4 <= done < 40
    assert_same_results(uninterrupted, workspace)
    assert times_begun(workspace) == 1, "the training began anew"
    assert f"40 in all, {done} from an earlier run" in (workspace.logs("sums") / "run.log").read_text()
    assert not workspace.training("sums").exists()


@pytest.mark.slow(10)
def test_ctrl_c_in_training_ends_with_one_line_and_resumes(tiny_models, uninterrupted, workspace, tmp_path):
    log = tmp_path / "log"
    words = command(tiny_models["llama"], workspace, TRAIN)
    process = start(words, log)
    wait_until(lambda: bool(checkpoints(workspace)), process, log)
    process.send_signal(signal.SIGINT)
    assert process.wait() == 130
    assert "Traceback" not in log.read_text()
    assert "resumes from here" in log.read_text()
    finish(words)
    assert_same_results(uninterrupted, workspace)
    assert times_begun(workspace) == 1, "the training began anew"


@pytest.mark.slow(15)
def test_a_killed_calibration_resumes_to_the_same_numbers(tiny_models, uninterrupted, tmp_path):
    auxiliary = "--experiment_name es --dataset pocket_sentences_es --stored_model_name es --do_train --max_train_examples 16"
    calibrate = (
        "--experiment_name lc --dataset pocket_dialogs --secondary_task translation --tgt_lang es --secondary_task_dataset "
        "pocket_dialogs_es --lora_merge_strategy learnable_calibration --for_each_component --merge_datasets pocket_dialogs_es "
        "--lora_merge_modules sums es --num_examples_merge 160 --do_predict"
    )
    shutil.copytree(uninterrupted.root, tmp_path / "whole")
    whole = Workspace(tmp_path / "whole")
    log = tmp_path / "log"
    finish(command(tiny_models["llama"], whole, auxiliary))
    shutil.copytree(whole.root, tmp_path / "killed")
    killed = Workspace(tmp_path / "killed")

    finish(command(tiny_models["llama"], whole, calibrate))
    process = start(command(tiny_models["llama"], killed, calibrate), log)
    wait_until(lambda: bool(list(killed.training("lc").glob("checkpoint-*/hashes.json"))), process, log)
    process.kill()
    process.wait()
    assert not killed.stored_model("lc").exists()
    finish(command(tiny_models["llama"], killed, calibrate))
    assert (killed.logs("lc") / "run.log").read_text().count("update 1: ") == 1, "the calibration began anew"
    for file in ("calibration.safetensors", WEIGHTS_FILE):
        assert (whole.stored_model("lc") / file).read_bytes() == (killed.stored_model("lc") / file).read_bytes()
    assert whole.predictions("lc", "test").read_bytes() == killed.predictions("lc", "test").read_bytes()
