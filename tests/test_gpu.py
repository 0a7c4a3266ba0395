"""What only a GPU shows; skipped elsewhere. `make gpu-check` runs these tests."""

from __future__ import annotations

import json
import shlex

import pytest
import torch
from test_end_to_end import COMPOSED, METHODS, TINY_RUN, train_single_tasks

import run_experiment
from src.engine.pool import Engines
from src.files import read_json
from src.prediction.backends import resolve_backend, resolve_dtype

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")]

LENGTHS = "--max_prompt_length 512 --max_test_examples 12 --gpu_memory_utilization 0.3 "


def test_auto_is_vllm_in_bfloat16():
    assert (resolve_backend("auto"), resolve_dtype("auto")) == ("vllm", "bfloat16")


def test_a_gpu_is_trained_on_and_predicted_with_by_default(workspace, tiny_models):
    command = f"{TINY_RUN}{LENGTHS}--model_name_or_path {tiny_models['llama']} --experiment_name sums --dataset pocket_dialogs "
    run_experiment.run(
        shlex.split(f"{command}--stored_model_name sums --do_train --do_predict --bf16 --workspace {workspace.root}")
    )
    results = read_json(workspace.results("sums"))
    assert results["environment"]["device"] == torch.cuda.get_device_name()
    assert "EngineCore" in (workspace.logs("sums") / "run.log").read_text()
    assert results["stages"]["test"]["counts"]["examples"] == 12


def test_methods_say_with_compiled_vllm_what_they_say_with_transformers_in_float32(workspace, tiny_models):
    """Compilation and CUDA graphs must not hide a calibration's biases; few tokens, as sums are ordered differently on a GPU."""
    model = tiny_models["llama"]
    flags = f"{TINY_RUN}{LENGTHS}--max_new_tokens 4 --prediction_dtype float32 --model_name_or_path {model} "

    def run(words: str) -> None:
        run_experiment.run([*shlex.split(words), "--workspace", str(workspace.root)], engines)

    with Engines(highest_rank=16) as engines:
        train_single_tasks(run, model)
        for name in ("main_lora", "lc", "linear", "lc_pp"):
            said = []
            for backend in ("transformers", "vllm"):
                learning = "--calibration_learning_rate 0.3 " if name.startswith("lc") else ""
                command = f"{flags}--experiment_name {name} {COMPOSED}{METHODS[name]}{learning}--do_predict"
                run(f"{command} --prediction_backend {backend}")
                path = workspace.predictions(name, "test")
                said.append([json.loads(line)["output"] for line in path.read_text().splitlines()])
                for file in (path, workspace.results(name), path.with_name("settings.json")):
                    file.unlink()
            same = sum(one == other for one, other in zip(*said, strict=True))
            assert same >= 11, (name, said)
