"""What servers answer in other forms than one word: parts, thoughts, punctuation, errors, and refusals of single questions."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest

from compositional.judge import url_judge
from compositional.judge.question import Reply, verdict_of
from helpers.judging import NUMBERED, asking, output_in, store_predictions, verdicts


def completion(content: Any, finish: str = "stop", **message: Any) -> bytes:
    """A server's whole answer with a message's content, and more of the message."""
    choice = {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": content} | message}
    return json.dumps({"id": "1", "object": "chat.completion", "choices": [choice]}).encode()


@pytest.mark.parametrize(
    ("said", "verdict"),
    [
        ("Yes.", "yes"),
        ("**No**", "no"),
        ('"yes"!\n', "yes"),
        ("<think>\nIt says no.\n</think>\n\nyes", "yes"),
        ("It says no. </think> Yes.", "yes"),
        ("<think>yes", None),
        ("<think></think>", None),
        ("Yes, it is.", None),
        ("yes no", None),
        ("yesno", None),
        ("", None),
        (None, None),
    ],
)
def test_a_verdict_is_one_word_whatever_stands_around_it(said, verdict):
    assert verdict_of("a", Reply(said)).verdict == verdict


@pytest.mark.parametrize(
    ("body", "verdict", "reply"),
    [
        (completion([{"type": "text", "text": "Y"}, {"type": "text", "text": "es"}]), "yes", "Yes"),
        (completion(["no"]), "no", "no"),
        (completion([{"type": "image_url"}]), None, ""),
        (completion(1), None, "1"),
        (completion(None), None, ""),
        (completion("<think>\n\n</think>\n\nno"), "no", "<think>\n\n</think>\n\nno"),
        (completion(None, reasoning_content="yes"), "yes", "yes"),
        (completion("no", reasoning="It could be yes."), "no", "no"),
        (completion(None, refusal="I won't."), None, "I won't."),
    ],
)
def test_every_form_of_content_is_read(body, verdict, reply, workspace, judge, server):
    store_predictions(workspace, "e", NUMBERED)
    server.answer = lambda question: (200, body if output_in(question) == "output 2" else "yes")
    counts = judge(asking(server))["e"]["stages"]["test"]["counts"]
    row = verdicts(workspace, "e", "judge")[2]
    assert (row["verdict"], row["reply"]) == (verdict, reply)
    assert counts["judged"] == (6 if verdict else 5)


@pytest.mark.parametrize("thought", ["<think>I wonder", "Thinking about it, I"])
def test_a_model_that_thinks_first_gets_the_tokens_for_it(thought, workspace, judge, server):
    store_predictions(workspace, "e", NUMBERED)

    def answer(question: str) -> tuple[int, bytes]:
        if server.asked[-1]["max_tokens"] < 100:
            return 200, completion(thought, finish="length")
        return 200, completion(f"{thought} </think> No.")

    server.answer = answer
    assert judge(asking(server, "--batch_size 1"))["e"]["stages"]["test"]["counts"] == {
        "examples": 6,
        "judged": 6,
        "yes": 0,
        "failures": {},
    }


def test_a_server_that_is_slow_is_not_said_to_be_none(workspace, mistakes, server, monkeypatch):
    store_predictions(workspace, "e", NUMBERED)
    ended = threading.Event()

    def answer(question: str) -> tuple[int, bytes]:
        if server.asked[-1]["max_tokens"] > 100:
            ended.wait(60)
        return 200, completion("I wonder", finish="length")

    server.answer = answer
    monkeypatch.setattr(url_judge, "_LONGEST_WAIT_FOR_A_THOUGHT", 0.2)
    (line,) = mistakes(asking(server, "--batch_size 1"))
    ended.set()
    fault = "the server answers too slowly, or no longer; a smaller --batch_size asks less at a time"
    assert line == f"--judge_url {server.url}: {fault}"


def test_a_model_that_never_says_yes_or_no_is_an_error_and_nothing_is_recorded(workspace, mistakes, server):
    store_predictions(workspace, "e", NUMBERED)
    server.answer = lambda question: (200, "I am happy to help.")
    (line,) = mistakes(asking(server))
    assert line == (
        f"--judge_url {server.url}: judge answers none of 6 questions with yes or no, but for example with "
        "'I am happy to help.'; name another judge"
    )
    assert not workspace.judgement("e", "judge").exists()
    assert not workspace.verdicts("e", "test", "judge").exists()


ERRORS = {
    "body": {"error": {"message": "overloaded", "code": 502}},
    "body with null choices": {"error": "overloaded", "choices": None},
    "choice": {"choices": [{"index": 0, "error": {"message": "overloaded"}, "message": {"content": ""}}]},
}


@pytest.mark.parametrize("place", ERRORS)
def test_the_reason_of_an_error_inside_a_completion_is_kept(place, workspace, judge, mistakes, server):
    store_predictions(workspace, "e", NUMBERED)
    body = json.dumps(ERRORS[place]).encode()
    server.answer = lambda question: (200, body)
    assert mistakes(asking(server)) == [f"--judge_url {server.url}: the server answers with an error: overloaded"]
    server.answer = lambda question: (200, body if output_in(question) == "output 2" else "yes")
    counts = judge(asking(server))["e"]["stages"]["test"]["counts"]
    assert counts["failures"] == {"the server answers with an error": 1}
    assert verdicts(workspace, "e", "judge")[2]["reply"] == "overloaded"


@pytest.mark.parametrize("status", [403, 413, 451])
def test_one_question_that_is_refused_is_a_counted_failure(status, workspace, judge, server):
    store_predictions(workspace, "e", NUMBERED)
    server.answer = lambda question: (status, "not this one") if output_in(question) == "output 2" else (200, "yes")
    counts = judge(asking(server))["e"]["stages"]["test"]["counts"]
    assert (counts["judged"], counts["failures"]) == (5, {"the server refuses the request": 1})
    assert "not this one" in verdicts(workspace, "e", "judge")[2]["reply"]


def test_a_question_that_a_server_always_fails_on_is_a_counted_failure(workspace, judge, server, monkeypatch):
    monkeypatch.setattr("openai._base_client.BaseClient._calculate_retry_timeout", lambda *_, **__: 0)
    store_predictions(workspace, "e", NUMBERED)
    server.answer = lambda question: (500, "crashed") if output_in(question) == "output 2" else (200, "yes")
    counts = judge(asking(server))["e"]["stages"]["test"]["counts"]
    assert (counts["judged"], counts["failures"]) == (5, {"the server fails on the request": 1})


@pytest.mark.parametrize("status", [401, 403])
def test_a_key_that_is_withdrawn_ends_the_call(status, workspace, mistakes, server):
    store_predictions(workspace, "e", NUMBERED)
    server.answer = lambda question: (status, "no such key") if any(map(output_in, asked_so_far(server))) else (200, "yes")
    (line,) = mistakes(asking(server))
    assert "no such key" in line
    assert not workspace.judgement("e", "judge").exists()


def asked_so_far(server: Any) -> list[str]:
    return [request["messages"][0]["content"] for request in server.asked]


@pytest.mark.parametrize(("key", "sent"), [("", "none"), (" a-key\n", "a-key"), ("\n", "none")])
def test_a_key_without_its_line_break_is_sent(key, sent, workspace, judge, server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    store_predictions(workspace, "e", NUMBERED)
    judge(asking(server))
    assert server.keys == {f"Bearer {sent}"}


@pytest.mark.parametrize("key", ["a\nb", "clé"])
def test_a_key_that_no_header_can_have_is_one_line_that_does_not_show_it(key, workspace, mistakes, server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    store_predictions(workspace, "e", NUMBERED)
    assert mistakes(asking(server)) == ["OPENAI_API_KEY has characters that no key has, such as a line break: set it again"]


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "http_proxy", "ALL_PROXY"])
def test_a_server_on_this_machine_is_asked_without_a_proxy(variable, workspace, judge, server, monkeypatch):
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, "http://127.0.0.1:9")
    store_predictions(workspace, "e", NUMBERED)
    assert judge(asking(server))["e"]["stages"]["test"]["counts"]["judged"] == 6


def test_a_proxy_that_is_none_is_one_line(workspace, mistakes, monkeypatch):
    monkeypatch.setenv("ALL_PROXY", "socks9://127.0.0.1:9")
    store_predictions(workspace, "e", NUMBERED)
    (line,) = mistakes("--experiment_name e --judge_model_name_or_path judge --judge_url http://judge.example/v1")
    assert line.startswith("--judge_url http://judge.example/v1: it can't be asked: ")
