"""What only a GPU shows; skipped elsewhere. `make gpu-check` runs these tests."""

from __future__ import annotations

import json
import shlex

import pytest
import torch

import run_experiment
from compositional.core.errors import UserError
from compositional.core.files import read_json
from compositional.core.machine import resolve_dtype
from compositional.prediction import resolve_backend
from compositional.prediction.vllm_backend import Engines
from helpers.tiny_runs import COMPOSED, METHODS, TINY_RUN, train_single_tasks

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")]

LENGTHS = "--max_prompt_length 512 --max_test_examples 12 --gpu_memory_utilization 0.3 "


def test_auto_is_vllm_in_sixteen_bits():
    assert resolve_backend("auto") == "vllm"
    assert resolve_dtype("auto") == ("bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16")


def test_a_gpu_is_trained_on_and_predicted_with_by_default(workspace, tiny_models):
    command = f"{TINY_RUN}{LENGTHS}--model_name_or_path {tiny_models['llama']} --experiment_name sums --dataset pocket_dialogs "
    run_experiment.run(
        shlex.split(f"{command}--stored_model_name sums --do_train --do_predict --bf16 --workspace {workspace.root}")
    )
    results = read_json(workspace.results("sums"))
    assert results["environment"]["device"] == torch.cuda.get_device_name()
    assert "EngineCore" in (workspace.logs("sums") / "run.log").read_text()
    assert results["stages"]["test"]["counts"]["examples"] == 12


@pytest.mark.parametrize("name", ["main_lora", "linear", "lc", "lc_pp"])
def test_vllm_says_with_an_adapter_what_transformers_says(name, workspace, tiny_models):
    """Compilation and CUDA graphs must not hide adapters or biases; few tokens, as bfloat16 sums differ in their order."""
    model = tiny_models["llama"]
    flags = f"{TINY_RUN}{LENGTHS}--max_new_tokens 4 --model_name_or_path {model} --workspace {workspace.root} "
    learning = "--calibration_learning_rate 0.3 " if name.startswith("lc") else ""
    said = {}
    with Engines(highest_rank=16) as engines:
        train_single_tasks(lambda words: run_experiment.run(shlex.split(f"{words} --workspace {workspace.root}")), model)
        for experiment, method in ((name, METHODS[name]), ("zero_shot", METHODS["zero_shot"])):
            for backend in ("transformers", "vllm"):
                command = f"{flags}--experiment_name {experiment} {COMPOSED}{method}{learning if experiment == name else ''}"
                run_experiment.run(shlex.split(f"{command} --do_predict --prediction_backend {backend}"), engines)
                path = workspace.predictions(experiment, "test")
                said[experiment, backend] = [json.loads(line)["output"] for line in path.read_text().splitlines()]
                path.unlink()
                workspace.results(experiment).unlink()
    same = sum(one == other for one, other in zip(said[name, "transformers"], said[name, "vllm"], strict=True))
    assert same >= 8, said
    assert said[name, "vllm"] != said["zero_shot", "vllm"]


def test_float32_with_an_adapter_is_refused_before_anything_is_written(workspace, tiny_models):
    flags = f"{TINY_RUN}{LENGTHS}--model_name_or_path {tiny_models['llama']} --workspace {workspace.root} "
    command = f"{flags}--experiment_name sums --dataset pocket_dialogs --stored_model_name sums --do_train --do_predict"
    with pytest.raises(UserError, match="not in float32; --prediction_backend transformers does without vLLM"):
        run_experiment.run(shlex.split(f"{command} --prediction_dtype float32"))
    assert not workspace.output("sums").exists()
