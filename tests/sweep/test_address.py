"""A sweep's Ray: an address where no cluster answers, and a folder for temporary files whose path is long."""

from __future__ import annotations

import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

import run_sweep
from compositional.core.errors import UserError
from compositional.core.machine import socket_folder
from compositional.sweep import cluster

STRANGERS = {
    "silent": b"",
    "web server": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "Redis": b"-ERR unknown command\r\n",
    "gone": None,
}


@contextmanager
def answering(answer: bytes | None) -> Iterator[str]:
    """A server that says one thing, nothing (empty), or hangs up (None)."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        held = []

        def serve() -> None:
            connection, _ = server.accept()
            connection.recv(1024)
            if answer is None:
                connection.close()
                return
            connection.sendall(answer)
            held.append(connection)

        threading.Thread(target=serve, daemon=True).start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        for one in held:
            one.close()


@pytest.mark.parametrize("stranger", STRANGERS)
@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_whatever_answers_in_the_place_of_a_cluster_is_one_line_within_seconds(scheme, stranger, monkeypatch):
    monkeypatch.setattr(cluster, "_SECONDS_TO_ANSWER", 0.5)
    with answering(STRANGERS[stranger]) as place:
        address = f"{scheme}{place}"
        with pytest.raises(UserError) as caught:
            cluster.check_answers(address)
    (line,) = caught.value.mistakes
    assert line.startswith(f"--address {address}: ")
    assert "no Ray cluster" in line


def test_what_ray_raises_when_its_processes_do_not_start_is_one_line_and_a_fault_of_ours_is_not(monkeypatch):
    """It was seen with a limit of file sizes below that of Ray's object store."""

    def init_raises(error: Exception) -> None:
        def init(**options: object) -> None:
            raise error

        monkeypatch.setattr("ray.init", init)

    init_raises(Exception("The current node timed out during startup.\nSee the logs."))
    with pytest.raises(UserError) as caught, cluster.started_ray(None):
        pass
    assert caught.value.mistakes == ("Ray can't be started: The current node timed out during startup.",)
    init_raises(KeyError("ours"))
    with pytest.raises(KeyError), cluster.started_ray(None):
        pass


@pytest.mark.parametrize("address", ["127.0.0.1:9", "ray://127.0.0.1:9", "[::1]:9", "no-such-host.invalid:6379"])
def test_an_address_where_nobody_answers_is_one_line_and_nothing_is_run(address, workspace):
    flags = f"--sub_tasks sum_tr_es --methods zero_shot --workspace {workspace.root} --address {address}"
    with pytest.raises(UserError, match="no Ray cluster answers there"):
        run_sweep.run(flags.split())
    assert not (workspace.root / "logs").exists()
    with workspace.locked(sweep="of this workspace"):
        pass


@pytest.mark.parametrize("address", ["somewhere", "127.0.0.1", ":6379", "127.0.0.1:port"])
def test_an_address_without_host_and_port_is_a_mistake(address):
    with pytest.raises(UserError, match="expected HOST:PORT"):
        cluster.check_answers(address)


def test_a_cluster_that_auto_stands_for_must_answer_too(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    with pytest.raises(UserError, match="no Ray cluster answers there"), cluster.started_ray("auto"):
        pass


def test_sockets_have_names_short_enough_whatever_the_folder_for_temporary_files(monkeypatch):
    for folder, expected in (("/scratch/me", "/scratch/me"), (f"/scratch/{'x' * 80}", "/tmp")):
        monkeypatch.setattr(tempfile, "tempdir", folder)
        assert socket_folder() == expected


@pytest.mark.slow
def test_ray_starts_with_a_long_folder_for_temporary_files_and_its_address_answers(tmp_path, monkeypatch):
    import ray

    long = tmp_path / ("x" * 100)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    monkeypatch.setenv("TMPDIR", str(long))
    with cluster.started_ray(None):
        cluster.check_answers(ray.get_runtime_context().gcs_address)
        assert ray.get(ray.remote(lambda: 7).remote()) == 7
