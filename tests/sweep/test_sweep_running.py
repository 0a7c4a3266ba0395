"""Running a sweep on Ray: failures stop only what needs them, and a killed sweep goes on."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from random import uniform

import pytest

from compositional.core.files import read_json
from compositional.core.workspace import Workspace
from compositional.sweep.execution import Progress, run_group
from compositional.sweep.project import python_path
from compositional.sweep.steps import Artefact, Contents, Kind, Step
from compositional.sweep.worker import DONE, FAILED, SKIPPED, Job, read_events
from helpers import PROJECT
from helpers.planning import with_ctrl_c
from helpers.sweeps import ONE_SUB_TASK, TINY_WITHOUT_JOINT_EXPERT, undisturbed, wait_until, workers_in

TINY = f"{TINY_WITHOUT_JOINT_EXPERT}--joint_expert_flags=' --max_train_examples 8' "


# In place of the project's run_experiment.py: runs a shell command.
SHELL = """import subprocess

from compositional.core.errors import UserError


def run(words, engines):
    if subprocess.run(["bash", "-c", *words]).returncode:
        raise UserError("it failed")
"""


def shell_job(name: str, script: str, needs: tuple[str, ...] = ()) -> dict:
    return asdict(Job(name, Kind.PREDICT.value, [script], list(needs), script))


@pytest.mark.slow
def test_a_step_that_fails_or_crashes_stops_only_what_needs_it(tmp_path):
    (tmp_path / "run_experiment.py").write_text(SHELL)  # found first, in the folder that the worker runs in
    jobs = [
        shell_job("fails", "echo no; exit 3"),
        shell_job("needs it", "true", ("fails",)),
        shell_job("kills its process", "kill -9 $PPID; sleep 5"),
        shell_job("needs that", "true", ("kills its process",)),
        shell_job("goes on", f"echo here > {tmp_path}/here", ()),
    ]
    status = tmp_path / "status.jsonl"
    run_group(jobs, str(tmp_path / "log"), str(status), str(tmp_path), 1)
    ended = {event.name: event.state for event in read_events(status)}
    expected = [FAILED, SKIPPED, FAILED, SKIPPED, DONE]
    assert ended == {job["name"]: state for job, state in zip(jobs, expected, strict=True)}
    assert (tmp_path / "here").is_file()


@pytest.mark.slow
def test_a_worker_prepares_data_in_its_own_process_and_reports_mistakes(tmp_path):
    status, folder = tmp_path / "status.jsonl", str(tmp_path)
    words = {"made": ["--only", "pocket_replies_de", "--dry_run"], "wrong": ["--only", "nothing_like_it"]}
    jobs = [
        asdict(Job(name, Kind.PREPARE.value, [*some, "--workspace", folder], [], f"prepare {name}")) for name, some in words.items()
    ]
    run_group(jobs, str(tmp_path / "log"), str(status), folder, 1)
    ended = {event.name: event.state for event in read_events(status)}
    assert ended == {"made": DONE, "wrong": FAILED}
    log = (tmp_path / "log").read_text()
    assert "| pocket_replies_de " in log
    assert "error: --only nothing_like_it" in log


def test_what_is_lost_with_another_group_is_skipped_and_the_rest_can_run():
    def step(name: str, group: str, *needs: str) -> Step:
        made, *read = (Artefact(Contents.ADAPTER, one) for one in (name, *needs))
        return Step(Kind.TRAIN, name, (), group, tuple(read), (made,))

    steps = [step("a", "a"), step("b", "both", "a"), step("c", "both"), step("d", "both", "b")]
    progress = Progress(steps, Path("nowhere"))
    assert not progress.is_ready(progress.groups["both"])
    progress.states["a"] = type(progress.states["a"])("a", FAILED)
    assert progress.is_ready(progress.groups["both"])
    possible, skipped = progress.without_lost(progress.groups["both"])
    assert ([step.name for step in possible], [step.name for step in skipped]) == (["c"], ["b", "d"])


TABLE = f"{ONE_SUB_TASK}{TINY}--methods zero_shot joint_expert_lora linear_merge learnable_calibration_merge --workspace "
TAKEN = "pocket_sentences_es_lora"


@dataclass(frozen=True)
class Failed:
    """A workspace after a sweep in which one step failed; its output, and its seconds."""

    workspace: Workspace
    run: subprocess.CompletedProcess
    seconds: float


@pytest.fixture(scope="module")
def failed(tmp_path_factory) -> Failed:
    """A sweep whose second adapter can't be stored, because its place is taken."""
    workspace, start = Workspace(tmp_path_factory.mktemp("failed")), time.monotonic()
    workspace.stored_model(TAKEN).mkdir(parents=True)
    run = subprocess.run(command_in(workspace), cwd=PROJECT, capture_output=True, text=True, check=False)
    return Failed(workspace, run, time.monotonic() - start)


@pytest.fixture(scope="module")
def whole(one_thread, tmp_path_factory) -> Workspace:
    """The same sweep without Ray, uninterrupted: its steps in this process, in another order."""
    return undisturbed(TABLE, tmp_path_factory.mktemp("whole"))


def command_in(workspace: Workspace) -> list[str]:
    return [sys.executable, "run_sweep.py", *shlex.split(TABLE), str(workspace.root)]


@pytest.mark.slow(45)
def test_a_step_that_fails_leaves_the_rest_done(failed):
    shown = failed.run.stdout
    assert failed.run.returncode == 1
    assert "5 done, 1 failed, 4 skipped" in shown
    assert f"error: {failed.workspace.stored_model(TAKEN)} exists and was not made by an experiment: choose another name" in shown
    lost = ("linear_merge", "learnable_calibration_merge")
    skipped = ", ".join(f"{judge}pocket_sum_tr_es_{name}" for judge in ("", "judge ") for name in lost)
    assert f"skipped, as what they need has failed: {skipped}" in shown
    for name in ("zero_shot", "joint_expert_lora"):
        assert read_json(failed.workspace.results(f"pocket_sum_tr_es_{name}"))["stages"]["test"]["counts"]["examples"] == 4
        assert failed.workspace.judgement(f"pocket_sum_tr_es_{name}", "pocket").is_file()


@pytest.mark.slow
def test_a_worker_whose_parent_has_ended_before_it_looks_ends_too(tmp_path):
    (tmp_path / "run_experiment.py").write_text(SHELL)
    ended = subprocess.Popen(["true"])
    ended.wait()
    words = [sys.executable, "-m", "compositional.sweep.worker", str(tmp_path / "status")]
    asked = json.dumps({"parent": ended.pid, "jobs": [shell_job("one", f"sleep 60; touch {tmp_path}/here")]})
    environment = os.environ | {"PYTHONPATH": python_path()}
    done = subprocess.run(words, input=asked, text=True, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL, check=False)
    assert done.returncode == -signal.SIGKILL
    assert not (tmp_path / "here").exists()


@pytest.mark.slow(80)
def test_it_goes_on_with_what_failed_however_often_it_is_killed_and_ends_in_the_same_adapters_and_table(failed, whole, tmp_path):
    workspace = Workspace(shutil.copytree(failed.workspace.root, tmp_path / "workspace"))
    workspace.stored_model(TAKEN).rmdir()
    for _ in range(3):
        killed = subprocess.Popen(command_in(workspace), cwd=PROJECT, stdout=subprocess.DEVNULL, preexec_fn=with_ctrl_c)
        time.sleep(uniform(0.2, 0.6) * failed.seconds)
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        wait_until(lambda: not workers_in(workspace.root), 60)
    done = subprocess.run(command_in(workspace), cwd=PROJECT, capture_output=True, text=True, check=True)
    assert "10 done, 0 failed, 0 skipped" in done.stdout
    for name in ("main.csv", "main.md", "main_storage.svg", "main_training.svg"):
        assert (whole.root / "output" / "tables" / name).read_text() == (workspace.root / "output" / "tables" / name).read_text()
    for name in ("joint_expert_lora", "learnable_calibration_merge"):
        experiment = f"pocket_sum_tr_es_{name}"
        files = sorted(path.name for path in whole.stored_model(experiment).glob("*.safetensors"))
        assert files
        for file in files:
            assert (whole.stored_model(experiment) / file).read_bytes() == (workspace.stored_model(experiment) / file).read_bytes()
        assert whole.predictions(experiment, "test").read_bytes() == workspace.predictions(experiment, "test").read_bytes()
