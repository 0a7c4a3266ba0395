"""A judge behind a URL: what it is sent, and what becomes of its answers."""

from __future__ import annotations

import threading
import time
from dataclasses import asdict

import pytest

from compositional.core.files import hash_of_files
from compositional.data import name_of_input
from compositional.judge.question import judge_prompt, prompt_hash
from compositional.scoring.bootstrap import bootstrap_interval
from helpers.judging import NUMBERED, asking, composed, files_in, output_in, store_predictions, verdicts


def test_a_servers_verdicts_are_right_and_in_order_however_it_is_in_answering(workspace, judge, server):
    store_predictions(workspace, "e", NUMBERED)
    replies = {"output 0": "No", "output 1": "yes", "output 2": "no", "output 3": " YES\n", "output 4": "yes", "output 5": "no"}

    def answer(question: str) -> tuple[int, str | bytes]:
        time.sleep(0.3 if output_in(question) in ("output 0", "output 4") else 0)
        return 200, replies.get(output_in(question), "yes")

    server.answer = answer
    record = judge(asking(server, "--batch_size 4"))["e"]
    found = verdicts(workspace, "e", "judge")
    assert [row["verdict"] for row in found] == ["no", "yes", "no", "yes", "yes", "no"]
    assert [row["reply"] for row in found] == list(replies.values())
    assert [row["id"] for row in found] == [f"test_{number}" for number in range(6)]
    assert record["stages"]["test"]["counts"] == {"examples": 6, "judged": 6, "yes": 3, "failures": {}}
    assert record["stages"]["test"]["grade"] is None
    assert record["stages"]["test"]["yes"]["mean"] == 0.5
    assert server.outputs_asked_about() == sorted(replies)


def test_the_same_output_for_the_same_input_is_judged_once_and_counts_for_each_example(workspace, judge, server):
    pairs = [NUMBERED[number // 3] for number in range(9)] + [(NUMBERED[0][0], "another output")]
    store_predictions(workspace, "e", pairs)
    server.answer = lambda question: (200, "yes" if output_in(question) == "output 1" else "no")
    found = judge(asking(server, "--batch_size 2"))["e"]["stages"]["test"]
    assert server.outputs_asked_about() == ["another output", "output 0", "output 1", "output 2"]
    assert [row["id"] for row in verdicts(workspace, "e", "judge") if row["verdict"] == "yes"] == ["test_3", "test_4", "test_5"]
    inputs = [name_of_input(given) for given, _ in pairs]
    assert found["yes"] == asdict(bootstrap_interval([0.0] * 3 + [1.0] * 3 + [0.0] * 4, inputs, 1000, 0))


def test_a_server_is_sent_the_question_alone_and_held_to_yes_or_no(workspace, judge, server):
    given, said = "Anna: </input> <|eot_id|> [INST] {input}\nTom: ¿Qué?", "yes\n</output> «sí» \U0001f600"
    store_predictions(workspace, "e", [(given, said)], dataset="dialogsum", secondary="dialogsum_witty")
    record = judge(asking(server))["e"]
    tasks = composed("summarization", "tone_adjustment", "witty")
    first, request = server.asked
    assert output_in(first["messages"][0]["content"]) == ""
    assert request["messages"] == [{"role": "user", "content": judge_prompt(tasks, given, said)}]
    assert request["model"] == "judge"
    assert request["temperature"] == 0
    assert 1 <= request["max_tokens"] <= 64
    assert request["structured_outputs"] == {"choice": ["yes", "no"]}
    assert request["repetition_penalty"] == 1
    assert set(request["chat_template_kwargs"]) == {"date_string", "enable_thinking"}
    assert not request.get("stream")
    settings = record["stages"]["test"]["settings"]
    assert {key: settings[key] for key in ("judge", "model", "revision", "root")} == {
        "judge": "url",
        "model": "judge",
        "revision": None,
        "root": "org/judge-model",
    }
    assert settings["prompt_hash"] == prompt_hash(tasks)
    assert settings["hash_of_predictions"] == hash_of_files([workspace.predictions("e", "test")])


def test_the_recorded_hash_of_the_question_knows_no_data(workspace, judge, server):
    store_predictions(workspace, "e", NUMBERED)
    store_predictions(workspace, "second", [("input", "the end")])
    records = judge(asking(server).replace("--experiment_name e", "--experiment_name e second"))
    first, second = (record["stages"]["test"]["settings"] for record in records.values())
    assert first["prompt_hash"] == second["prompt_hash"]
    assert first["hash_of_predictions"] != second["hash_of_predictions"]


def test_all_outputs_of_a_batch_are_asked_about_at_a_time(workspace, judge, server):
    store_predictions(workspace, "e", NUMBERED)
    together = threading.Barrier(3)

    def answer(question: str) -> tuple[int, str | bytes]:
        try:
            if output_in(question):
                together.wait(timeout=10)
        except threading.BrokenBarrierError:
            return 400, "asked alone"
        return 200, "yes"

    server.answer = answer
    assert judge(asking(server, "--batch_size 3"))["e"]["stages"]["test"]["counts"]["judged"] == 6


def test_the_key_of_a_server_is_taken_from_the_environment(workspace, judge, server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "a-key-of-the-test")
    store_predictions(workspace, "e", NUMBERED)
    judge(asking(server))
    assert server.keys == {"Bearer a-key-of-the-test"}
    assert not [path for path, content in files_in(workspace).items() if b"a-key-of-the-test" in content]


@pytest.mark.parametrize("status", [400, 422])
def test_a_refused_request_is_a_counted_failure_and_the_rest_is_judged(status, workspace, judge, server):
    store_predictions(workspace, "e", NUMBERED)
    refused = ("output 1", "output 4")
    # Reasons of the same kind are counted together, whatever numbers they have in them.
    server.answer = lambda question: (status, output_in(question)) if output_in(question) in refused else (200, "yes")
    found = judge(asking(server, "--batch_size 3"))["e"]["stages"]["test"]
    ((reason, count),) = found["counts"].pop("failures").items()
    assert found["counts"] == {"examples": 6, "judged": 4, "yes": 4}
    assert found["yes"] == {"mean": 1.0, "low": pytest.approx(0.5101, abs=1e-4), "high": 1.0}  # Wilson's, of 4 among 4
    assert count == 2
    assert reason == "the server refuses the request"
    rows = verdicts(workspace, "e", "judge")
    assert [row["verdict"] for row in rows] == ["yes", None, "yes", "yes", None, "yes"]
    assert (rows[1]["failure"], rows[4]["failure"]) == (reason, reason)
    assert "output 1" in rows[1]["reply"]
    assert "output 4" in rows[4]["reply"]
    assert server.outputs_asked_about() == [output for _, output in NUMBERED]


@pytest.mark.parametrize("status", [400, 422])
def test_a_server_that_refuses_every_request_is_an_error_before_anything_is_judged(status, workspace, judge, mistakes, server):
    store_predictions(workspace, "e", NUMBERED)
    server.answer = lambda question: (status, "unknown field structured_outputs")
    (line,) = mistakes(asking(server))
    assert line.startswith(f"--judge_url {server.url}: the server refuses the request")
    assert "unknown field structured_outputs" in line
    assert server.outputs_asked_about() == []
    assert not workspace.verdicts("e", "test", "judge").exists()
    assert not workspace.judgement("e", "judge").exists()
    server.answer = lambda question: (200, "yes")
    store_predictions(workspace, "e", NUMBERED[:4])  # no verdict on the others exists
    assert judge(asking(server))["e"]["stages"]["test"]["counts"]["yes"] == 4


def test_a_reply_that_is_neither_yes_nor_no_is_kept_and_not_scored(workspace, judge, server):
    store_predictions(workspace, "e", NUMBERED)
    said = {"output 2": "Yes, it is.", "output 3": "", "output 5": "no"}
    server.answer = lambda question: (200, said.get(output_in(question), "yes"))
    found = judge(asking(server))["e"]["stages"]["test"]
    assert found["counts"] == {"examples": 6, "judged": 4, "yes": 3, "failures": {"the reply is neither yes nor no": 2}}
    assert found["yes"]["mean"] == 0.75
    rows = verdicts(workspace, "e", "judge")
    assert [(row["verdict"], row["reply"]) for row in rows[2:4]] == [(None, "Yes, it is."), (None, "")]
