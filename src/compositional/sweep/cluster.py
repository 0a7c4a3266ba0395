"""The Ray that a sweep runs on: one of its own, or a cluster at an address; and what its machines have."""

from __future__ import annotations

import os
import socket
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from compositional.core.errors import UserError, first_line
from compositional.core.machine import socket_folder
from compositional.sweep.project import python_path
from compositional.sweep.scripts import Resources

Taken = dict[str, int]  # Ray's options of a task: num_cpus and num_gpus


def options_of(resources: Resources) -> dict[str, Taken]:
    """Ray's options for experiments and for judging; raises UserError for more than any machine has."""
    machines = _machines()
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


def _machines() -> list[dict[str, float]]:
    """What each machine of the cluster has, whether it is free or taken."""
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _running_cluster() -> str | None:
    """The address that Ray takes for `auto`: the user's, or that of the cluster last started on this machine; None without one."""
    path = Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()) / "ray" / "ray_current_cluster"
    return os.environ.get("RAY_ADDRESS") or (path.read_text(encoding="utf-8").strip() if path.is_file() else None)


_SECONDS_TO_ANSWER = 10
# How HTTP/2, on which gRPC stands, begins: a client's preface and its (empty) settings. A server answers with its own settings.
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
_KIND_OF_SETTINGS = 4


def check_answers(address: str) -> None:
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


_SECONDS_BETWEEN_CHECKS = 5
# A control store that keeps its state elsewhere may be started again. After 60 seconds without it, Ray ends the process.
_SECONDS_WITHOUT_ANSWER = 30
_RESUMES = "the same command resumes"


class Watch:
    """Notices that the cluster can't go on: its head does not answer, or no machine is left that a task fits on."""

    def __init__(self, address: str | None) -> None:
        import ray

        self._name = f"--address {address}" if address else "Ray"
        is_client = address is not None and address.startswith("ray://")
        self._address = address if is_client else ray.get_runtime_context().gcs_address
        self._checked = self._answered = time.monotonic()

    def check(self, needed: Iterable[Taken]) -> None:
        """Look from time to time, as often as it is called; raises UserError when what is needed can't be had any more."""
        if time.monotonic() - self._checked < _SECONDS_BETWEEN_CHECKS:
            return
        try:
            check_answers(self._address)
        except UserError as error:
            self._checked = time.monotonic()
            if self._checked - self._answered > _SECONDS_WITHOUT_ANSWER:
                raise _gone(self._name) from error
            return
        machines = _machines()
        for taken in needed:
            if not any(_fits(taken, machine) for machine in machines):
                wanted = f"{taken['num_cpus']} processor cores, {taken['num_gpus']} GPUs"
                raise UserError(f"{self._name}: no machine is left that has what a task needs ({wanted}); {_RESUMES}")
        self._checked = self._answered = time.monotonic()

    def lost(self) -> UserError:
        """What to raise when Ray's process on this machine has ended."""
        return UserError(f"{self._name}: Ray no longer runs on this machine; {_RESUMES}")


def _gone(name: str) -> UserError:
    return UserError(f"{name}: the cluster's head no longer answers; {_RESUMES}")


def _fits(taken: Taken, machine: dict[str, float]) -> bool:
    return machine.get("CPU", 0) >= taken["num_cpus"] and machine.get("GPU", 0) >= taken["num_gpus"]


@contextmanager
def messages_in(file: Path) -> Iterator[None]:
    """Ray's own messages go to a file during the block. About a lost machine they are many lines, amid the sweep's own."""
    from ray._private import worker

    def write(data: dict[str, Any], **ignored: bool) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        with open(file, "a", encoding="utf-8") as log:
            log.writelines(f"{line}\n" for line in data["lines"])

    usual, worker.print_to_stdstream = worker.print_to_stdstream, write
    try:
        yield
    finally:
        worker.print_to_stdstream = usual


@contextmanager
def started_ray(address: str | None) -> Iterator[None]:
    """A Ray of our own, or a cluster's; raises UserError when that can't be reached."""
    import logging

    import ray

    os.environ.setdefault("RAY_DEDUP_LOGS", "0")
    started_by = f"--address {address}" if address else "Ray can't be started"
    answering = _running_cluster() if address == "auto" else address
    if answering:
        check_answers(answering)
    try:
        # Ray's own workers import this module.
        environment = {"env_vars": {"PYTHONPATH": python_path()}}
        quiet = {"include_dashboard": False, "log_to_driver": False, "logging_level": logging.ERROR}
        place = {} if address else {"_temp_dir": os.path.join(os.environ.get("RAY_TMPDIR") or socket_folder(), "ray")}
        ray.init(address=address or "local", runtime_env=environment, **quiet, **place)
    except Exception as error:
        # Where its processes do not start, Ray raises an Exception of no other class.
        if not isinstance(error, OSError | ValueError | RuntimeError) and type(error) is not Exception:
            raise
        raise UserError(f"{started_by}: {first_line(error)}") from error
    logging.getLogger("ray.util.client.logsclient").setLevel(logging.CRITICAL)  # tells of each attempt to reconnect
    try:
        yield
    except BrokenPipeError:  # of our own output
        raise
    except ConnectionError as error:  # of Ray's client (ray://), whose server is gone
        raise _gone(started_by) from error
    finally:
        ray.shutdown()
