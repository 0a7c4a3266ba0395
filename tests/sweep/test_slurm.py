"""The printed script of a sweep, run by a real Slurm. Skipped unless this machine is the one node of a Slurm that is running."""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

import run_sweep
from compositional.core.workspace import Workspace
from helpers import PROJECT
from helpers.sweeps import SMALL_TABLE, assert_same_results, undisturbed, wait_until


def ask(*words: str) -> str:
    """What one of Slurm's commands prints."""
    return subprocess.run(words, capture_output=True, text=True, check=False).stdout.strip()


def is_the_one_node() -> bool:
    return bool(shutil.which("sbatch")) and ask("sinfo", "--noheader", "--Node", "--format=%N") == platform.node()


pytestmark = [pytest.mark.slow(120), pytest.mark.skipif(not is_the_one_node(), reason="no Slurm of this machine alone is running")]


@pytest.fixture(scope="module")
def whole(one_thread, tmp_path_factory) -> Workspace:
    """The sweep undisturbed, without Slurm."""
    return undisturbed(SMALL_TABLE, tmp_path_factory.mktemp("whole"))


def submit(script: str) -> list[str]:
    """Submit the arrays of a script; their job ids."""
    found = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", script], cwd=PROJECT, env=found, check=True, capture_output=True, text=True)
    return done.stdout.removeprefix("submitted ").split(";")[0].split()


def states(job: str) -> list[str]:
    """The states of an array's tasks that have not ended."""
    return ask("squeue", "--noheader", "--array", f"--jobs={job}", "--states=PD,R,CG,CF", "--format=%T").split()


def wait_for(jobs: list[str]) -> None:
    wait_until(lambda: not any(map(states, jobs)), 1800)


def test_an_array_is_cancelled_in_the_middle_and_the_same_script_resumes_and_makes_the_same_table(whole, tmp_path, capsys):
    workspace = Workspace(tmp_path / "workspace")
    run_sweep.run([*shlex.split(SMALL_TABLE), str(workspace.root), "--print_commands", "slurm"])
    script = capsys.readouterr().out
    jobs = submit(script)
    try:
        wait_until(lambda: "RUNNING" in states(jobs[1]), 1800)
        time.sleep(2)
        subprocess.run(["scancel", jobs[1]], check=True)
        wait_for(jobs)
        assert not (workspace.root / "output" / "tables").exists()
        jobs = submit(script)
        wait_for(jobs)
    finally:
        subprocess.run(["scancel", *jobs], check=True)
    assert_same_results(whole, workspace)


def test_a_step_that_fails_keeps_no_other_experiment_from_being_judged(tmp_path, capsys):
    workspace = Workspace(tmp_path / "workspace")
    workspace.stored_model("pocket_sentences_es_lora").mkdir(parents=True)  # which no experiment has made
    run_sweep.run([*shlex.split(SMALL_TABLE), str(workspace.root), "--print_commands", "slurm"])
    jobs = submit(capsys.readouterr().out)
    try:
        wait_for(jobs)
    finally:
        subprocess.run(["scancel", *jobs], check=True)
    judged = {path.parent.name.removeprefix("pocket_sum_tr_es_") for path in workspace.root.glob("output/*/judge_pocket.json")}
    assert judged == {"zero_shot", "main_lora"}
