"""Servers that refuse, fail, are long in answering, or speak something else."""

from __future__ import annotations

import asyncio
import json
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from compositional.core.errors import UserError
from compositional.core.recorded import read_recorded
from compositional.core.workspace import Workspace
from compositional.data import Locations, find_dataset
from compositional.judge.question import Request
from compositional.judge.url_judge import UrlJudge
from helpers import PROJECT
from helpers.judging import (
    NO_CHOICES,
    NUMBERED,
    RULE,
    SIX,
    SIX_VERDICTS,
    Server,
    asking,
    files_in,
    output_in,
    partial_of,
    store_predictions,
    verdicts,
)
from helpers.planning import with_ctrl_c


def test_a_model_that_the_server_does_not_have_is_an_error_that_lists_what_it_has(workspace, mistakes, server):
    store_predictions(workspace, "e", NUMBERED)
    server.models = {"first/model": "r", "second/model": "r"}
    before = files_in(workspace)
    assert mistakes(asking(server)) == [
        f"--judge_model_name_or_path judge: the server at {server.url} has first/model, second/model"
    ]
    server.models = {}
    assert mistakes(asking(server)) == [f"--judge_model_name_or_path judge: the server at {server.url} has no model"]
    assert server.asked == []
    assert {path: content for path, content in files_in(workspace).items() if path.parent.name != ".locks"} == before


def test_a_url_that_the_server_does_not_know_is_an_error(workspace, mistakes, server):
    store_predictions(workspace, "e", NUMBERED)
    url = server.url.removesuffix("/v1")
    (line,) = mistakes(f"--experiment_name e --judge_model_name_or_path judge --judge_url {url}")
    assert line.startswith(f"--judge_url {url}: the server says ")
    assert "404" in line


def test_nobody_listening_is_an_error(workspace, mistakes, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    store_predictions(workspace, "e", NUMBERED)
    with socket.socket() as reserved:  # bound, but not listening
        reserved.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{reserved.getsockname()[1]}/v1"
        (line,) = mistakes(f"--experiment_name e --judge_model_name_or_path judge --judge_url {url}")
    assert line.startswith(f"--judge_url {url}: no server answers there")
    assert not workspace.judgement("e", "judge").exists()


def test_when_a_server_fails_its_verdicts_are_kept_and_the_next_run_goes_on(workspace, judge, mistakes, server):
    store_predictions(workspace, "e", NUMBERED)
    together = threading.Barrier(2)

    def answer(question: str) -> tuple[int, str | bytes]:
        if output_in(question) not in ("output 4", "output 5"):
            return 200, "no"
        together.wait(timeout=60)
        return 401, "go away"

    server.answer = answer
    (line,) = mistakes(asking(server, "--batch_size 2"))
    assert line.startswith(f"--judge_url {server.url}: the server says ")
    assert "go away" in line
    path = workspace.verdicts("e", "test", "judge")
    kept = [json.loads(line) for line in partial_of(path).read_text().splitlines()]
    assert [(row["id"], row["verdict"]) for row in kept] == [(f"test_{number}", "no") for number in range(4)]
    assert not path.exists()
    assert not workspace.judgement("e", "judge").exists()

    server.asked.clear()
    server.answer = lambda question: (200, "yes")
    record = judge(asking(server, "--batch_size 2"))["e"]
    assert server.outputs_asked_about() == ["output 4", "output 5"]
    assert [row["verdict"] for row in verdicts(workspace, "e", "judge")] == ["no"] * 4 + ["yes"] * 2
    assert record["stages"]["test"]["counts"] == {"examples": 6, "judged": 6, "yes": 2, "failures": {}}
    assert not partial_of(path).exists()

    server.asked.clear()
    judge(asking(server, "--batch_size 2"))
    path.rename(partial_of(path))  # as when a run is interrupted after its last batch
    judge(asking(server, "--batch_size 2"))
    assert server.asked == []


def start_and_wait_until_asked_about(server: Server, workspace: Workspace, outputs: list[str], log: Path) -> subprocess.Popen:
    """The real command in a process of its own, once the server has been asked about outputs, in batches of 2."""
    words = [*shlex.split(asking(server, "--batch_size 2")), "--workspace", str(workspace.root)]
    with open(log, "wb") as file:
        process = subprocess.Popen(
            [sys.executable, str(PROJECT / "llm_judge_eval.py"), *words], cwd=PROJECT, stderr=file, preexec_fn=with_ctrl_c
        )
    deadline = time.monotonic() + 180
    while server.outputs_asked_about() != outputs:
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.01)
    return process


@pytest.mark.slow
def test_ctrl_c_ends_with_one_line_and_the_same_command_goes_on(workspace, judge, server, tmp_path):
    store_predictions(workspace, "e", NUMBERED)
    interrupted = threading.Event()

    def answer(question: str) -> tuple[int, str | bytes]:
        if output_in(question) in ("output 2", "output 3"):
            interrupted.wait(timeout=60)
        return 200, "no"

    server.answer = answer
    log = tmp_path / "log"
    process = start_and_wait_until_asked_about(server, workspace, [f"output {number}" for number in range(4)], log)
    process.send_signal(signal.SIGINT)
    time.sleep(0.2)
    interrupted.set()
    assert process.wait(timeout=60) == 130
    assert "resumes from here" in log.read_text()
    assert "Traceback" not in log.read_text()
    assert len(partial_of(workspace.verdicts("e", "test", "judge")).read_text().splitlines()) == 2

    server.asked.clear()
    server.answer = lambda question: (200, "yes")
    judge(asking(server, "--batch_size 3"))
    assert server.outputs_asked_about() == ["output 2", "output 3", "output 4", "output 5"]
    assert [row["verdict"] for row in verdicts(workspace, "e", "judge")] == ["no"] * 2 + ["yes"] * 4


@pytest.mark.slow
def test_ctrl_c_does_not_wait_for_a_server_that_is_long_in_answering(workspace, server, tmp_path):
    store_predictions(workspace, "e", NUMBERED)
    ended = threading.Event()
    server.answer = lambda question: (200, "no" if output_in(question) and ended.wait(timeout=600) else "yes")
    process = start_and_wait_until_asked_about(server, workspace, ["output 0", "output 1"], tmp_path / "log")
    process.send_signal(signal.SIGINT)
    try:
        assert process.wait(timeout=120) == 130
    finally:
        ended.set()
        process.kill()
        process.wait()
    assert "Traceback" not in (tmp_path / "log").read_text()


def test_an_experiment_that_was_judged_before_a_server_failed_keeps_its_record(workspace, mistakes, server):
    store_predictions(workspace, "e", NUMBERED)
    store_predictions(workspace, "second", [("input", "the end")])
    server.answer = lambda question: (401, "go away") if output_in(question) == "the end" else (200, "yes")
    mistakes(asking(server).replace("--experiment_name e", "--experiment_name e second"))
    assert read_recorded(workspace.judgement("e", "judge"))["stages"]["test"]["counts"]["yes"] == 6
    assert not workspace.judgement("second", "judge").exists()


def test_another_model_under_the_same_name_is_refused(workspace, judge, mistakes, server):
    store_predictions(workspace, "e", NUMBERED)
    judge(asking(server))
    server.asked.clear()
    server.models = {"judge": "org/other-model"}
    (line,) = mistakes(asking(server))
    assert "root was org/judge-model, is org/other-model" in line
    assert server.asked == []
    judge(asking(server, "--overwrite"))
    assert len(server.outputs_asked_about()) == 6


def test_the_judgements_of_two_judges_stand_side_by_side(workspace, judge, server):
    store_predictions(workspace, "e", SIX)
    server.models = {"org/judge": "org/judge"}
    by_rule = judge(f"{RULE}--experiment_name e")["e"]
    by_model = judge(f"--experiment_name e --judge_model_name_or_path org/judge --judge_url {server.url}")["e"]
    assert (by_rule["stages"]["test"]["counts"]["yes"], by_model["stages"]["test"]["counts"]["yes"]) == (3, 6)
    assert read_recorded(workspace.judgement("e", "pocket")) == by_rule
    assert read_recorded(workspace.judgement("e", "org--judge")) == by_model
    assert [row["verdict"] for row in verdicts(workspace, "e")] == SIX_VERDICTS
    assert [row["verdict"] for row in verdicts(workspace, "e", "org--judge")] == ["yes"] * 6


def test_a_completion_without_choices_is_a_counted_failure_and_the_rest_is_judged(workspace, judge, server):
    store_predictions(workspace, "e", NUMBERED)
    server.answer = lambda question: (200, NO_CHOICES if output_in(question) == "output 2" else "yes")
    found = judge(asking(server))["e"]["stages"]["test"]
    assert (found["counts"]["judged"], found["counts"]["yes"]) == (5, 5)
    assert list(found["counts"]["failures"].values()) == [1]


def answer_everything_with(body: bytes, kind: str) -> ThreadingHTTPServer:
    """A server whose every answer is the same."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *words: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    return server


@pytest.mark.parametrize(
    ("body", "kind"),
    [(b"<html>Hello</html>", "text/html"), (b"[]", "application/json"), (b"{", "application/json")],
    ids=["web page", "list", "broken JSON"],
)
def test_a_server_that_is_no_openai_compatible_one_is_an_error(body, kind, workspace, mistakes, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    store_predictions(workspace, "e", NUMBERED)
    server = answer_everything_with(body, kind)
    url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        (line,) = mistakes(f"--experiment_name e --judge_model_name_or_path judge --judge_url {url}")
    finally:
        server.shutdown()
        server.server_close()
    assert line.startswith(f"--judge_url {url}: ")


@pytest.mark.parametrize(
    "body",
    [b"<html>Hello</html>", b"{", b"[]", b'{"error": {"message": "no"}}', b'{"choices": [{"index": 0, "message": null}]}'],
    ids=["web page", "broken JSON", "list", "error", "no message"],
)
def test_a_server_whose_answers_are_no_completions_is_an_error(body, workspace, mistakes, server):
    store_predictions(workspace, "e", NUMBERED)
    server.answer = lambda question: (200, body)
    (line,) = mistakes(asking(server))
    assert line.startswith(f"--judge_url {server.url}: ")
    assert "None" not in line


def test_what_a_record_says_of_verdicts_is_thrown_away_with_them(workspace, judge, mistakes, server):
    store_predictions(workspace, "e", NUMBERED)
    assert judge(asking(server))["e"]["stages"]["test"]["counts"]["judged"] == 6
    server.answer = lambda question: (401, "no") if output_in(question) else (200, "yes")
    mistakes(asking(server, "--overwrite"))
    assert read_recorded(workspace.judgement("e", "judge"))["stages"] == {}


def test_questions_under_way_end_when_one_fails_so_that_no_failure_is_left_for_later(workspace, server):
    def fail_late_but_for_the_first(question: str) -> tuple[int, str]:
        time.sleep(0 if output_in(question) == NUMBERED[0][1] else 0.5)
        return 401, "no"

    server.answer = fail_late_but_for_the_first
    dataset = find_dataset("pocket_dialogs_es", Locations(workspace.root / "data", raw=None))
    url_judge = UrlJudge(server.url, "judge")
    with pytest.raises(UserError, match="401"):
        url_judge.replies([Request(dataset, "test", given, said) for given, said in NUMBERED])
    assert asyncio.all_tasks(url_judge._runner.get_loop()) == set()
