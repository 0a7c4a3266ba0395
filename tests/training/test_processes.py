"""One training over several processes, from any folder, without the package being installed."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

import run_experiment
from compositional.adapters.peft_folder import read_adapter
from compositional.core.files import read_json
from compositional.core.processes import exit_code_of
from compositional.core.workspace import Workspace
from helpers import PROJECT

LAUNCHER = "-m accelerate.commands.launch --cpu --num_processes 2 --num_machines 1 --mixed_precision no --dynamo_backend no"


@pytest.mark.slow(14)
def test_accelerate_launch_gives_the_adapter_of_one_process(tiny_models, bare_python, tmp_path):
    flags = (
        f"--model_name_or_path {tiny_models['llama']} --experiment_name a --dataset pocket_dialogs --stored_model_name a "
        "--do_train --max_train_examples 20 --do_predict --max_test_examples 4 --max_new_tokens 4 --report_to none --lora_rank 4 "
        "--lora_dropout 0 --learning_rate 1e-2 --batch_size 8 --gradient_accumulation_steps 1 --warmup_steps 0"
    )
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    environment |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    adapters = []
    for name, launcher in (("one", None), ("two", LAUNCHER)):
        workspace = Workspace(tmp_path / name)
        words = [*flags.split(), "--workspace", str(workspace.root)]
        if launcher:
            launched = [bare_python, *launcher.split(), str(PROJECT / "run_experiment.py"), *words]
            done = subprocess.run(launched, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr[-2000:]
        else:
            run_experiment.run(words)
        assert read_json(workspace.results("a"))["stages"]["test"]["counts"]["examples"] == 4
        adapters.append(read_adapter(workspace.stored_model("a")))
    for path, factors in adapters[0].factors.items():
        torch.testing.assert_close(factors.delta(), adapters[1].factors[path].delta(), rtol=0.02, atol=2e-3)
        assert factors.delta().abs().max() > 1e-2


@pytest.mark.parametrize(("of_the_user", "expected"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_waiting_threads_sleep_unless_the_user_says_otherwise(of_the_user, expected, monkeypatch):
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    if of_the_user:
        monkeypatch.setenv("OMP_WAIT_POLICY", of_the_user)
    assert exit_code_of(lambda: None) == 0
    assert os.environ["OMP_WAIT_POLICY"] == expected


@pytest.mark.slow
def test_a_command_sets_how_threads_wait_before_it_imports_torch():
    """Its libraries read the setting when they are loaded."""
    code = """
import sys, run_experiment
from compositional.core import processes
real = processes.os.environ.setdefault
def noted(name, value):
    print(name, "torch" in sys.modules)
    return real(name, value)
processes.os.environ.setdefault = noted
sys.argv = ["run_experiment.py"]
run_experiment.main()
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=False)
    assert "OMP_WAIT_POLICY False" in done.stdout.splitlines()
