"""A sweep on several machines: Ray's own test cluster, of which a machine or the head is lost in the middle."""

from __future__ import annotations

import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from compositional.core.errors import UserError
from compositional.core.machine import socket_folder
from compositional.core.workspace import Workspace
from compositional.sweep import cluster
from compositional.sweep.execution import Progress, run_group
from compositional.sweep.steps import Kind, Step
from compositional.sweep.worker import DONE, FAILED, LOST, RUNNING, Event, Job, alone, read_events
from helpers import PROJECT
from helpers.sweeps import SMALL_TABLE, assert_same_results, parent_of, started_with, undisturbed, wait_until, workers_in

if TYPE_CHECKING:
    from ray._private.node import Node
    from ray.cluster_utils import Cluster


# ---- on Ray's test cluster


@pytest.fixture
def machines(monkeypatch) -> Iterator[Cluster]:
    """A cluster of three machines with one processor core each, all of them processes of this machine."""
    folder = Path(tempfile.mkdtemp(prefix="ray", dir=socket_folder()))
    (folder / "ray").mkdir()
    monkeypatch.setenv("RAY_TMPDIR", str(folder))
    from ray.cluster_utils import Cluster

    handler = signal.getsignal(signal.SIGTERM)  # the head's replaces it
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    for _ in range(2):
        made.add_node(num_cpus=1)
    yield made
    made.shutdown()
    wait_until(lambda: not started_with(f"RAY_TMPDIR={folder}"))
    signal.signal(signal.SIGTERM, handler)
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def whole(one_thread, tmp_path_factory) -> Workspace:
    """The sweep undisturbed, without Ray: its steps in this process, in another order."""
    return undisturbed(SMALL_TABLE, tmp_path_factory.mktemp("whole"))


@contextmanager
def sweep_in(workspace: Workspace, folder: Path, *flags: str) -> Iterator[subprocess.Popen]:
    """The command, with a folder for temporary files of its own, in which it leaves nothing."""
    folder.mkdir(exist_ok=True)
    command = [sys.executable, "run_sweep.py", *shlex.split(SMALL_TABLE), str(workspace.root), *flags]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(folder))
        process = subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()
    wait_until(lambda: not workers_in(workspace.root))
    assert list(folder.iterdir()) == []


def at_work(workspace: Workspace, nodes: set[Node]) -> Node | None:
    """One of the machines, on which a step of the sweep runs at this moment."""
    by_process = {node.all_processes["raylet"][0].process.pid: node for node in nodes}
    for number, words in workers_in(workspace.root).items():
        status = Path(words.split()[-1])
        busy = any(event.state == RUNNING for event in read_events(status)[-1:])
        if busy and (node := by_process.get(parent_of(parent_of(number)))):
            return node
    return None


@pytest.mark.slow(60)
def test_a_lost_machine_costs_its_steps_only_their_time(machines, whole, tmp_path):
    workspace = Workspace(tmp_path / "workspace")
    with sweep_in(workspace, tmp_path / "temporary", "--address", machines.address) as process:
        machines.remove_node(wait_until(lambda: at_work(workspace, machines.worker_nodes)), allow_graceful=False)
        shown, errors = process.communicate()
    assert (process.returncode, errors) == (0, "")
    assert " lost pocket_" in shown
    assert "10 done, 0 failed, 0 skipped" in shown
    assert "raylet" not in shown
    assert_same_results(whole, workspace)


@pytest.mark.slow(90)
def test_a_cluster_that_loses_its_head_is_one_line_and_the_same_command_resumes(machines, whole, tmp_path):
    workspace = Workspace(tmp_path / "workspace")
    with sweep_in(workspace, tmp_path / "temporary", "--address", machines.address) as process:
        wait_until(lambda: at_work(workspace, machines.worker_nodes))
        address = machines.address
        machines.remove_node(machines.head_node, allow_graceful=False)
        _, errors = process.communicate()
    assert process.returncode == 2
    assert errors.startswith(f"error: --address {address}: ")
    assert errors.endswith("; the same command resumes\n")
    assert errors.count("\n") == 1
    with sweep_in(workspace, tmp_path / "temporary") as process:
        shown, _ = process.communicate()
    assert process.returncode == 0
    assert "10 done, 0 failed, 0 skipped" in shown
    assert_same_results(whole, workspace)


# ---- its parts


def test_a_step_that_loses_its_process_begins_again_and_fails_the_third_time_and_the_rest_goes_on(tmp_path):
    steps = [Step(Kind.PREDICT, name, (), "group") for name in ("first", "second", "third")]
    progress = Progress(steps, tmp_path)
    status = progress.status_of("group")
    status.write_text(Event("first", DONE).line() + Event("second", RUNNING).line())
    progress.update()
    for state in (LOST, LOST, FAILED):
        assert progress.lose("group") == [Event("second", state)]
        assert progress.update() == []  # what the lost process has noted is known
    assert [step.name for step in progress.unsettled("group")] == ["third"]
    assert progress.lose("group") == [Event("third", LOST)]


@pytest.mark.slow
def test_the_processes_of_one_group_wait_for_each_other(tmp_path):
    (tmp_path / "run_experiment.py").write_text(f"def run(words, engines):\n    open({str(tmp_path / 'ran')!r}, 'w').close()\n")
    status, log = tmp_path / "group.status.jsonl", tmp_path / "log"
    job = asdict(Job("one", Kind.PREDICT.value, [], [], "run it"))
    with alone(status.with_suffix(".lock")):
        second = threading.Thread(target=run_group, args=([job], str(log), str(status), str(tmp_path), 1))
        second.start()
        waits = "waiting for an earlier process of these steps to end"
        wait_until(lambda: not second.is_alive() or (log.is_file() and waits in log.read_text()))
        assert not (tmp_path / "ran").exists()
        assert read_events(status) == []
    second.join()
    assert (tmp_path / "ran").exists()
    assert [event.state for event in read_events(status)] == [RUNNING, DONE]


@pytest.fixture
def watch(monkeypatch) -> cluster.Watch:
    monkeypatch.setattr(cluster, "_SECONDS_BETWEEN_CHECKS", 0)
    monkeypatch.setattr(cluster, "_SECONDS_WITHOUT_ANSWER", 0)
    return cluster.Watch("ray://127.0.0.1:9")


def test_a_head_that_no_longer_answers_is_one_line(watch):
    with pytest.raises(UserError, match=r"^--address ray://127.0.0.1:9: the cluster's head no longer answers; the same command"):
        watch.check([])


def test_a_head_may_be_away_for_a_while(watch, monkeypatch):
    monkeypatch.setattr(cluster, "_SECONDS_WITHOUT_ANSWER", 30)
    watch.check([])


def test_when_no_machine_is_left_that_a_task_fits_on_it_is_one_line(watch, monkeypatch):
    monkeypatch.setattr(cluster, "check_answers", lambda address: None)
    monkeypatch.setattr(cluster, "_machines", lambda: [{"CPU": 4.0}, {"CPU": 1.0, "GPU": 1.0}])
    watch.check([{"num_cpus": 4, "num_gpus": 0}, {"num_cpus": 1, "num_gpus": 1}])
    with pytest.raises(UserError, match=r"no machine is left that has what a task needs \(4 processor cores, 1 GPUs\); the same"):
        watch.check([{"num_cpus": 4, "num_gpus": 1}])


@pytest.mark.slow
def test_a_client_whose_server_is_gone_is_one_line_and_a_closed_pipe_stays_one():
    for raised, expected in ((ConnectionError("Client is shutting down."), UserError), (BrokenPipeError(), BrokenPipeError)):
        with pytest.raises(expected), cluster.started_ray(None):
            raise raised
