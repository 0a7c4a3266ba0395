"""The experiment command in a process of its own, to be killed or interrupted."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import run_experiment
from compositional.core.workspace import Workspace
from helpers import PROJECT
from helpers.planning import with_ctrl_c

COMMON = (
    "--batch_size 4 --gradient_accumulation_steps 1 --lora_rank 4 --learning_rate 1e-2 --save_steps 3 --report_to none "
    "--max_test_examples 40 --prediction_batch_size 2 --max_new_tokens 24 --bootstrap_resamples 50 "
)


def command(model: Path, workspace: Workspace, flags: str) -> list[str]:
    words = f"{COMMON}--model_name_or_path {model} {flags}".split()
    return [sys.executable, str(PROJECT / "run_experiment.py"), *words, "--workspace", str(workspace.root)]


def finish(words: list[str]) -> None:
    """Run a command in this process, which has its libraries loaded already, to its end."""
    run_experiment.run(words[2:])


def start(words: list[str], log: Path) -> subprocess.Popen:
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        words, cwd=PROJECT, env=environment, stdout=subprocess.DEVNULL, stderr=open(log, "wb"), preexec_fn=with_ctrl_c
    )


def wait_until(condition: Callable[[], bool], process: subprocess.Popen, log: Path) -> None:
    """Wait for a state of the workspace; fails when the run ends or takes minutes before it is reached."""
    deadline = time.monotonic() + 180
    while not condition():
        assert process.poll() is None, log.read_text()[-2000:]
        assert time.monotonic() < deadline, log.read_text()[-2000:]
        time.sleep(0.01)


def predicted_lines(workspace: Workspace) -> int:
    path = workspace.predictions("sums", "test")
    partial = path.with_name(path.name + ".partial")
    return len(partial.read_bytes().splitlines()) if partial.is_file() else 0
