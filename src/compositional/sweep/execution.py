"""Running a sweep's groups on Ray: each where its GPU or processor cores are free, as soon as what it needs is there."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from compositional.core.errors import UserError, first_line
from compositional.core.machine import socket_folder
from compositional.sweep.project import python_path, working_folder
from compositional.sweep.scripts import Resources
from compositional.sweep.steps import Kind, Step, required_steps
from compositional.sweep.worker import DONE, FAILED, SETTLED, SKIPPED, WAITING, Event, Job, read_events

_SECONDS_BETWEEN_LOOKS = 0.5


@dataclass
class Progress:
    """The state of every step, and the logs of their groups."""

    steps: list[Step]
    folder: Path
    states: dict[str, Event] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.states = {step.name: Event(step.name, WAITING) for step in self.steps}
        self._required = required_steps(self.steps)

    @property
    def groups(self) -> dict[str, list[Step]]:
        """The steps by the process that they share, in their order."""
        found: dict[str, list[Step]] = {}
        for step in self.steps:
            found.setdefault(step.group, []).append(step)
        return found

    def log_of(self, group: str) -> Path:
        """Where a group's process writes what it prints."""
        return self.folder / f"{group.replace(' ', '_').replace(',', '')}.log"

    def status_of(self, group: str) -> Path:
        """Where a group's process notes the states of its steps."""
        return self.log_of(group).with_suffix(".status.jsonl")

    def named(self, state: str) -> list[str]:
        """Names of the steps in a state."""
        return [name for name, event in self.states.items() if event.state == state]

    def is_done(self, step: Step) -> bool:
        """Whether the step has ended well."""
        return self.states[step.name].state == DONE

    def update(self) -> list[Event]:
        """Read what the workers have written down; returns what is new."""
        new = []
        for group in self.groups:
            for event in read_events(self.status_of(group)):
                if self.states[event.name].state not in SETTLED and self.states[event.name] != event:
                    self.states[event.name] = event
                    new.append(event)
        return new

    def fail(self, group: str) -> list[Event]:
        """Settle what is left of a group whose process is lost."""
        lost = [step.name for step in self.groups[group] if self.states[step.name].state not in SETTLED]
        events = [Event(name, FAILED if number == 0 else SKIPPED) for number, name in enumerate(lost)]
        self.states |= {event.name: event for event in events}
        return events

    def is_ready(self, group: list[Step]) -> bool:
        """Whether all that a group needs from other groups has ended, well or not."""
        own = {step.name for step in group}
        return all(self.states[name].state in SETTLED for step in group for name in self._required[step.name] if name not in own)

    def jobs(self, group: list[Step]) -> list[Job]:
        """What a worker is told of the steps of a group."""
        return [Job(step.name, step.kind.value, list(step.words), list(self._required[step.name]), str(step)) for step in group]

    def without_lost(self, group: list[Step]) -> tuple[list[Step], list[Step]]:
        """The steps of a group that can be run, and those that can't because what they need has failed."""
        lost = {name for name, event in self.states.items() if event.state in (FAILED, SKIPPED)}
        possible, skipped = [], []
        for step in group:
            if lost.intersection(self._required[step.name]):
                lost.add(step.name)
                skipped.append(step)
            else:
                possible.append(step)
        return possible, skipped


def run_steps(progress: Progress, resources: Resources, address: str | None, look: Callable[[list[Event]], None]) -> None:
    """Run all steps. `look` is called again and again with the events since its last call."""
    import ray

    with _started_ray(address):
        progress.folder.mkdir(parents=True, exist_ok=True)
        for group in progress.groups:
            progress.status_of(group).unlink(missing_ok=True)
            progress.log_of(group).unlink(missing_ok=True)
        options = _options(resources)
        remote = ray.remote(max_retries=0)(run_group)
        waiting, running = dict(progress.groups), {}
        while waiting or running:
            for group in [name for name, steps in waiting.items() if progress.is_ready(steps)]:
                possible, skipped = progress.without_lost(waiting.pop(group))
                new = [Event(step.name, SKIPPED) for step in skipped]
                progress.states |= {event.name: event for event in new}
                look(new)
                if possible:
                    paths = [str(path.resolve()) for path in (progress.log_of(group), progress.status_of(group), working_folder())]
                    taken = options["judge" if possible[0].kind is Kind.JUDGE else "experiment"]
                    jobs = [asdict(job) for job in progress.jobs(possible)]
                    running[remote.options(**taken).remote(jobs, *paths, taken["num_cpus"])] = group
            ended, _ = ray.wait(list(running), timeout=_SECONDS_BETWEEN_LOOKS) if running else ([], [])
            for reference in ended:
                group = running.pop(reference)
                try:
                    ray.get(reference)
                except ray.exceptions.RayError as error:  # its machine or its process was lost, to memory for example
                    with open(progress.log_of(group), "a", encoding="utf-8") as log:
                        log.write(f"\n{error}\n")
                    look([*progress.update(), *progress.fail(group)])
            if not running:
                time.sleep(_SECONDS_BETWEEN_LOOKS)
            look(progress.update())


def run_group(jobs: list[dict[str, Any]], log: str, status: str, folder: str, threads: int) -> None:
    """Run a group's steps in a process of their own. When it crashes, its step has failed, and another goes on with the rest."""
    environment = os.environ | {"OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": str(threads), "PYTHONUNBUFFERED": "1"}
    environment |= {"PYTHONPATH": python_path()}
    left = jobs
    while left:
        with open(log, "ab") as file:
            worker = [sys.executable, "-m", "compositional.sweep.worker", status]
            process = subprocess.Popen(
                worker, cwd=folder, env=environment, stdin=subprocess.PIPE, stdout=file, stderr=subprocess.STDOUT
            )
            process.communicate(json.dumps(left).encode())
        settled = {event.name for event in read_events(Path(status)) if event.state in SETTLED}
        left = [job for job in jobs if job["name"] not in settled]
        if left:
            with open(status, "a", encoding="utf-8") as file:
                file.write(Event(left[0]["name"], FAILED).line())
            left = left[1:]


def _options(resources: Resources) -> dict[str, dict[str, int]]:
    """Ray's options for experiments and for judging; raises UserError for more than any machine has."""
    import ray

    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    machines = [machine for machine in machines if machine.get("GPU")] or machines
    cpus, gpus = (int(max(machine.get(kind, 0) for machine in machines)) for kind in ("CPU", "GPU"))
    asked = {"--gpus_per_task": resources.gpus, "--gpus_per_judge": resources.judge_gpus} if gpus else {}
    mistakes = [f"{flag} {count}: the largest machine has {gpus} GPUs" for flag, count in asked.items() if count > gpus]
    if (resources.cpus or 1) > cpus:
        mistakes.append(f"--cpus_per_task {resources.cpus}: the largest machine has {cpus} processor cores")
    if mistakes:
        raise UserError(*mistakes)
    taken = resources.cpus or (max(1, cpus // gpus) if gpus else cpus)
    return {
        kind: {"num_cpus": min(cpus, taken * max(1, count if gpus else 1)), "num_gpus": count if gpus else 0}
        for kind, count in (("experiment", resources.gpus), ("judge", resources.judge_gpus))
    }


def _running_cluster() -> str | None:
    """The address that Ray takes for `auto`: the user's, or that of the cluster last started on this machine; None without one."""
    path = Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()) / "ray" / "ray_current_cluster"
    return os.environ.get("RAY_ADDRESS") or (path.read_text(encoding="utf-8").strip() if path.is_file() else None)


_SECONDS_TO_ANSWER = 10
# How HTTP/2, on which gRPC stands, begins: a client's preface and its (empty) settings. A server answers with its own settings.
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
_KIND_OF_SETTINGS = 4


def _check_answers(address: str) -> None:
    """Raise UserError when no Ray cluster answers at HOST:PORT within seconds. Ray itself would go on trying for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        raise UserError(f"--address {address}: expected HOST:PORT, ray://HOST:PORT or auto")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=_SECONDS_TO_ANSWER) as connection:
            if os.environ.get("RAY_USE_TLS", "0") != "0":
                return
            connection.settimeout(_SECONDS_TO_ANSWER)
            connection.sendall(_PREFACE)
            answer = connection.recv(9)
    except (OSError, OverflowError) as error:
        raise UserError(f"--address {address}: no Ray cluster answers there ({first_line(error)})") from error
    fault = None if len(answer) >= 4 and answer[3] == _KIND_OF_SETTINGS else "it does not speak gRPC"
    if fault or (fault := None if address.startswith("ray://") else _fault_of_control_store(address)):
        raise UserError(f"--address {address}: what answers there is no Ray cluster ({fault}); `ray status` shows one's address")


def _fault_of_control_store(address: str) -> str | None:
    """What is wrong with the answer to a question that `ray health-check` asks; None for an answer of Ray's."""
    import ray

    try:
        ray._raylet.GcsClient(address=address).internal_kv_get(b"any", b"healthcheck", timeout=_SECONDS_TO_ANSWER)
    except ray.exceptions.RpcError as error:
        return first_line(error)
    return None


@contextmanager
def _started_ray(address: str | None) -> Iterator[None]:
    """A Ray of our own, or a cluster's; raises UserError when that can't be reached."""
    import logging

    import ray

    os.environ.setdefault("RAY_DEDUP_LOGS", "0")
    started_by = f"--address {address}" if address else "Ray can't be started"
    answering = _running_cluster() if address == "auto" else address
    if answering:
        _check_answers(answering)
    try:
        # Ray's own workers import this module.
        environment = {"env_vars": {"PYTHONPATH": python_path()}}
        quiet = {"include_dashboard": False, "log_to_driver": False, "logging_level": logging.ERROR}
        place = {} if address else {"_temp_dir": os.path.join(os.environ.get("RAY_TMPDIR") or socket_folder(), "ray")}
        ray.init(address=address or "local", runtime_env=environment, **quiet, **place)
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"{started_by}: {first_line(error)}") from error
    try:
        yield
    finally:
        ray.shutdown()
