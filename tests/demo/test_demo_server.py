"""The demo's server, asked by HTTP: what it answers, what it refuses, and when it stops."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.request import urlopen

import httpx
import pytest
import torch

import demo
from compositional.core.errors import UserError
from compositional.core.files import read_json, write_json
from compositional.core.recorded import read_recorded
from compositional.core.workspace import Workspace
from compositional.demo.plan import make_demo_plan, parse_demo_arguments
from compositional.demo.server import MOST_CHARACTERS
from compositional.prediction.predict import read_predictions
from conftest import command_in
from helpers import PROJECT
from helpers.demos import OTHERS, SHOWN, failing_at_first, load, make_workspace, served, slowed, wait_until_idle
from helpers.planning import heavy_imports_of, with_ctrl_c

pytestmark = pytest.mark.slow(30)
PAGE = PROJECT / "src" / "compositional" / "demo" / "page"
TEXT = "Tom: I lost a key.\nMia: Where?\nTom: At school."


@pytest.fixture(scope="module")
def experiments(tmp_path_factory, single_tasks, tiny_models) -> Workspace:
    folder = tmp_path_factory.mktemp("demo")
    return make_workspace(folder, single_tasks("llama"), tiny_models["llama"], command_in(folder))


@pytest.fixture(scope="module")
def url(experiments, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(torch.cuda, "is_available", lambda: False)
        methods = load(experiments, tmp_path_factory.mktemp("engines"), f"--experiments {' '.join((*SHOWN, *OTHERS))}")
        with served(methods) as url:
            yield url


def answers(url: str, text: str, names: tuple[str, ...] = SHOWN) -> list[dict]:
    """All lines of an answer."""
    response = httpx.post(f"{url}answers", json={"text": text, "experiments": names}, timeout=60, trust_env=False)
    assert response.status_code == 200, response.text
    return [json.loads(line) for line in response.text.splitlines()]


def final(lines: list[dict]) -> dict[str, list[str]]:
    """The texts of each experiment's passes."""
    return {one["experiment"]: one["texts"] for one in lines if one["done"]}


# ---- answers


def test_each_experiment_says_what_it_predicted(url, experiments):
    predicted = {name: read_predictions(experiments.predictions(name, "test")) for name in SHOWN}
    for number in range(3):
        said = final(answers(url, predicted["zero_shot"][number].input))
        assert list(said) == list(SHOWN)
        for name, texts in said.items():
            one = predicted[name][number]
            assert texts == [*([one.intermediate] if name == "multi_step" else []), one.output]
    assert len({predictions[0].output for predictions in predicted.values()}) == len(SHOWN)


def test_llama_cpp_says_the_same(experiments, url, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    methods = load(experiments, tmp_path, "--experiments lc --prediction_backend llama_cpp")
    with served(methods) as other:
        said = final(answers(other, TEXT, ("lc",)))["lc"]
    # llama.cpp streams whole characters alone, and this model's random weights say halves of some.
    assert [text.replace("\ufffd", "") for text in said] == [
        text.replace("\ufffd", "") for text in final(answers(url, TEXT, ("lc",)))["lc"]
    ]


def test_answers_come_token_by_token(url):
    lines = answers(url, TEXT)
    for name in SHOWN:
        own = [one for one in lines if one["experiment"] == name]
        assert len(own) > 5
        assert [one["done"] for one in own] == [False] * (len(own) - 1) + [True]
        seconds = [one["seconds"] for one in own]
        assert seconds == sorted(seconds)
        assert seconds[0] > 0
    passes = [len(one["texts"]) for one in lines if one["experiment"] == "multi_step"]
    assert sorted(set(passes)) == [1, 2]


def test_a_page_is_offered_the_experiments_with_tasks_and_costs(url, experiments):
    offered = {one["experiment"]: one for one in httpx.get(f"{url}offered", trust_env=False).json()}
    assert list(offered) == [*SHOWN, *OTHERS]
    for name in SHOWN:
        one = offered[name]
        cost = read_json(experiments.results(name))["cost"]
        assert (one["passes"], one["extra_bytes"]) == (cost["inferences_per_example"], cost["extra_bytes"])
        assert one["main_task"] == "Summarize the following text"
        assert one["auxiliary_tasks"] == ["then translate it to Spanish"]
    assert (offered["witty"]["main_task"], offered["witty"]["languages"]) == ("Suggest a reply for the following text", ["en"])
    assert offered["multi_step"]["languages"] == ["en", "es"]
    assert offered["lc"]["languages"] == ["es"]
    assert offered["lc_pp"]["label"] == "Learnable Calibration++"
    assert offered["multi_step"]["requests"] == ["Summarize the following text", "Translate the following text to Spanish"]


def test_a_random_conversation_is_one_of_the_test_split(url, experiments):
    known = {one.input: one.reference for one in read_predictions(experiments.predictions("lc", "test"))}
    for _ in range(5):
        found = httpx.get(f"{url}example", params={"experiment": "lc"}, trust_env=False).json()
        assert known[found["text"]] == found["reference"]


# ---- what is refused


@pytest.mark.parametrize(
    ("asked", "status", "message"),
    [
        ({"text": " \n", "experiments": ["lc"]}, 422, "The conversation is empty"),
        ({"text": "x" * (MOST_CHARACTERS + 1), "experiments": ["lc"]}, 413, "it has 20,001 characters"),
        ({"text": "x" * 10_000_000, "experiments": ["lc"]}, 413, "The conversation is too long"),
        ({"text": TEXT, "experiments": []}, 422, "Choose at least one method"),
        ({"text": TEXT, "experiments": ["lc", "lx"]}, 422, "There is no experiment lx"),
        ({"text": TEXT}, 400, "Send JSON with a text"),
        ({"text": 7, "experiments": ["lc"]}, 400, "Send JSON with a text"),
        ([TEXT], 400, "Send JSON with a text"),
    ],
)
def test_a_request_that_can_not_be_answered_gets_a_message(asked, status, message, url):
    response = httpx.post(f"{url}answers", json=asked, trust_env=False)
    assert response.status_code == status
    assert message in response.json()["message"]


def test_what_is_no_text_or_no_json_gets_a_message(url):
    headers = {"Content-Type": "application/json"}
    surrogates = (b'{"text": "\\ud800", "experiments": ["lc"]}', b'{"text": "a", "experiments": ["\\ud800"]}')
    for content in (b"{", *surrogates, b"[" * 100_000, b"\xff"):
        response = httpx.post(f"{url}answers", content=content, headers=headers, trust_env=False)
        assert (response.status_code, "Send JSON" in response.json()["message"]) == (400, True)


def test_a_text_that_is_too_long_for_the_model_is_cut_and_the_page_is_told(url):
    lines = answers(url, "Tom: I lost a key. " * 1000, ("lc",))
    assert all(one["text_was_cut"] for one in lines)
    assert not any(one["text_was_cut"] for one in answers(url, TEXT, ("lc",)))
    assert lines[-1]["answer_was_cut"]


def test_pages_of_other_sites_get_nothing(url):
    as_form = httpx.post(
        f"{url}answers", content=json.dumps({"text": TEXT, "experiments": ["lc"]}), headers={"Content-Type": "text/plain"}
    )
    assert as_form.status_code == 415
    assert httpx.get(f"{url}offered", headers={"Host": "example.org"}, trust_env=False).status_code == 400


def test_the_page_loads_nothing_from_elsewhere(url):
    for path in PAGE.iterdir():
        assert not re.search(r"https?:|//[a-z]|@import|url\(", re.sub(r"^// .*|/\*.*?\*/", "", path.read_text(), flags=re.M)), path
        assert httpx.get(f"{url}{path.name}", trust_env=False).text == path.read_text(encoding="utf-8")
    policy = httpx.get(url, trust_env=False).headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy


def test_a_method_that_fails_says_why_and_the_others_answer(url):
    with failing_at_first(UserError("its values are no numbers")):
        first, *others = answers(url, TEXT)
    assert first == {"experiment": SHOWN[0], "failed": "its values are no numbers"}
    assert list(final(others)) == list(SHOWN[1:])


# ---- turns


def test_two_users_are_answered_at_once_method_by_method(url):
    other = "Ann: Will you come?\nBob: On Friday."
    alone = {text: final(answers(url, text)) for text in (TEXT, other)}
    with slowed(0.05), ThreadPoolExecutor(2) as users:
        both = dict(zip(alone, users.map(lambda text: timed(url, text), alone), strict=True))
    assert {text: final([line for _, line in lines]) for text, lines in both.items()} == alone
    ends = sorted((when, text) for text, lines in both.items() for when, line in lines if line["done"])
    assert {text for _, text in ends[: len(SHOWN)]} == set(alone), "one user waited for all methods of the other"


def timed(url: str, text: str) -> list[tuple[float, dict]]:
    """All lines of an answer, with the time at which each came."""
    body = {"text": text, "experiments": SHOWN}
    with httpx.stream("POST", f"{url}answers", json=body, timeout=60, trust_env=False) as response:
        return [(time.monotonic(), json.loads(line)) for line in response.iter_lines()]


def test_closing_the_page_ends_the_work(url):
    everything = len(answers(url, TEXT))
    body = {"text": TEXT, "experiments": SHOWN}
    with slowed(0.05) as made:
        with httpx.stream("POST", f"{url}answers", json=body, timeout=60, trust_env=False) as response:
            next(response.iter_lines())
        assert wait_until_idle(made) < everything / 2
        assert final(answers(url, TEXT, ("lc",))).keys() == {"lc"}, "the next user is answered"


def test_a_page_that_is_closed_while_it_waits_costs_nothing(url):
    body = {"text": "Ann: Will you come?", "experiments": SHOWN}
    with slowed(0.2) as made, ThreadPoolExecutor(1) as user:
        first = user.submit(answers, url, TEXT, ("lc",))
        while not made and not first.done():
            time.sleep(0.01)
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{url}answers", json=body, timeout=0.1, trust_env=False)
        own = len([one for one in first.result() if not one["done"]])
        assert wait_until_idle(made) == own


# ---- the command


def mistakes_of(flags: str, workspace: Workspace) -> list[str]:
    with pytest.raises(UserError) as caught:
        demo.run([*shlex.split(flags), "--workspace", str(workspace.root)])
    return list(caught.value.mistakes)


def test_a_mistake_is_a_line(experiments, workspace, tmp_path):
    cases = {
        "--experiments lx": "--experiments lx: there are no results of it",
        "--experiments ../lc": "a name is needed, not a path",
        "--port 70000": "--port 70000: must be at least 0 and at most 65535",
        "--experiment lc": "did you mean --experiments",
    }
    for flags, message in cases.items():
        (line,) = mistakes_of(flags, experiments)
        assert message in line
    assert "no finished experiment that composes tasks" in mistakes_of("", workspace)[0]
    assert len(mistakes_of("--experiments lx ly", experiments)) == 2


def test_a_port_that_is_taken_is_a_line(experiments):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        (line,) = mistakes_of(f"--port {taken.getsockname()[1]}", experiments)
    assert "Address already in use; choose another" in line


def test_too_many_experiments_are_not_loaded_unasked(experiments, tmp_path):
    copy = Workspace(shutil.copytree(experiments.root, tmp_path / "copy"))
    for number in range(12):
        shutil.copytree(copy.output("lc"), copy.output(f"lc{number}"))
    (line,) = mistakes_of("", copy)
    assert "18 finished experiments" in line
    assert "--experiments" in line


def test_what_has_changed_since_it_answered_is_a_line(experiments, tmp_path):
    copy = Workspace(shutil.copytree(experiments.root, tmp_path / "copy"))
    config = copy.stored_model("lc") / "adapter_config.json"
    config.write_text(config.read_text() + "\n")
    results = read_recorded(copy.results("zero_shot"))
    results["settings"]["hash_of_base_model"] = "other"
    write_json(copy.results("zero_shot"), results)
    shutil.rmtree(copy.stored_model("lc_pp"))
    changed, other_base, missing = mistakes_of("--experiments lc zero_shot lc_pp multi_step", copy)
    assert "--experiments lc: its adapter" in changed
    assert "has changed since it answered" in changed
    assert "--experiments zero_shot: its base model" in other_base
    assert "is missing: run it again" in missing


def test_without_names_the_methods_stand_in_the_papers_order(experiments):
    plan = make_demo_plan(*parse_demo_arguments(["--workspace", str(experiments.root)]))
    assert [one.name for one in plan.experiments] == ["french", "witty", *SHOWN]
    assert len({id(one.plan.base) for one in plan.experiments}) == 1


def test_help_and_mistakes_need_no_heavy_library(workspace):
    assert heavy_imports_of("demo", ["--help"]) == []
    assert heavy_imports_of("demo", ["--workspace", str(workspace.root)]) == []


def test_the_command_serves_until_ctrl_c(experiments, tmp_path):
    words = [sys.executable, str(PROJECT / "demo.py"), "--port", "0", "--experiments", "zero_shot", "--workspace"]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path)}
    before = files_of(experiments.root)
    running = subprocess.Popen(
        [*words, str(experiments.root)], env=environment, stdout=subprocess.PIPE, text=True, preexec_fn=with_ctrl_c
    )
    try:
        (url,) = re.findall(r"^(http://127\.0\.0\.1:\d+/) shows 1 experiments", running.stdout.readline())
        with urlopen(url) as page:
            assert b"<!doctype html>" in page.read()
        running.send_signal(signal.SIGINT)
        assert running.wait(30) == 0
    finally:
        running.kill()
        running.stdout.close()
    assert files_of(experiments.root) == before
    assert list(tmp_path.glob("demo-*")) == []


def files_of(folder: Path) -> list[tuple[str, int]]:
    return sorted((str(path), path.stat().st_mtime_ns) for path in folder.rglob("*"))
