"""Predictions by a llama-server that runs elsewhere: a server with an export, on another port of this machine."""

from __future__ import annotations

import http.server
import shlex
import shutil
import threading
from pathlib import Path

import pytest
import torch

import export
from compositional.core.files import read_json, write_json
from compositional.core.workspace import Workspace
from compositional.export.plan import RECORD
from compositional.prediction.predict import read_predictions
from helpers.composing import mistake_in
from helpers.serving import served
from helpers.tiny_runs import method_run

FULL = "--adapter_dtype float32 "
REMOTE = f"{FULL}--prediction_backend llama_cpp --llama_cpp_url"


@pytest.fixture(autouse=True)
def on_a_cpu(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def exported(workspace: Workspace, name: str, flags: str = "--dtype float32") -> Path:
    return export.run([*shlex.split(f"--experiment_name {name} --to gguf {flags}"), "--workspace", str(workspace.root)])


@pytest.mark.slow(10)
@pytest.mark.parametrize("method", ["zero_shot", "linear", "multi_step", "lc", "lc_pp"])
def test_a_running_server_says_what_transformers_said(method, tiny_models, trained, workspace, run, monkeypatch):
    asked = method_run(tiny_models["llama"], method)
    run(f"{asked}{FULL}--prediction_backend transformers")
    expected = read_predictions(workspace.predictions(method, "test"))
    folder = exported(workspace, method)
    shutil.rmtree(workspace.predictions_folder(method))
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # which is not asked
    with served(folder) as address:
        run(f"{asked}{REMOTE} {address}/")
    assert read_predictions(workspace.predictions(method, "test")) == expected
    for made_by in read_json(workspace.results(method))["predictions_made_by"].values():
        assert (made_by["backend"], made_by["dtype"]) == ("llama_cpp", "all F32")
        assert made_by["server"]["model"] == ("base-00001-of-00002.gguf" if method == "lc" else "base.gguf")


@pytest.mark.slow(20)
def test_a_server_that_lacks_what_a_run_needs_is_a_line(tiny_models, trained, workspace, run):
    for method in ("zero_shot", "linear", "lc", "peft_linear"):
        run(f"{method_run(tiny_models['llama'], method)}{FULL}--prediction_backend transformers")
        shutil.rmtree(workspace.predictions_folder(method))
    bare, linear, lc = (exported(workspace, method) for method in ("zero_shot", "linear", "lc"))
    cases = [
        (bare, (), "linear", "it has no adapter linear (its adapters: none): export with `export.py --to gguf`"),
        (linear, (), "peft_linear", "it has no adapter peft_linear (its adapters: adapter.gguf)"),
        (lc, ("--alias",), "lc", "it may have other biases than those of lc: start it with the --alias in export.json"),
        (lc, (), "zero_shot", "base-00001-of-00002.gguf is not"),
    ]
    for folder, without, method, expected in cases:
        with served(folder, without=without) as address:
            assert expected in mistake_in(f"{method_run(tiny_models['llama'], method)}{REMOTE} {address}", run, workspace)
    with served(linear) as address:
        other = method_run(tiny_models["qwen2"], "zero_shot").replace("--experiment_name zero_shot", "--experiment_name other")
        assert "is not" in mistake_in(f"{other}{REMOTE} {address}", run, workspace)
        new = f"{method_run(tiny_models['llama'], 'ties')}{REMOTE} {address}"
        assert "this command makes the adapter ties, so no server can have it" in mistake_in(new, run, workspace)
    record = read_json(linear / RECORD)
    write_json(linear / RECORD, record | {"serve": record["serve"].replace("-c 1024", "-c 256")})
    with served(linear) as address:
        asked = f"{method_run(tiny_models['llama'], 'linear')}{REMOTE} {address}"
        assert "256 tokens, more than 1012 are needed: start it with a larger -c" in mistake_in(asked, run, workspace)


@pytest.mark.slow(5)
def test_no_server_and_another_server_are_a_line(tiny_models, workspace, run):
    asked = f"{method_run(tiny_models['llama'], 'zero_shot').replace('--stored_model_name sums', '')}{REMOTE}"
    assert "127.0.0.1:9/props: no server answers there" in mistake_in(f"{asked} http://127.0.0.1:9", run, workspace)
    other = http.server.HTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
    threading.Thread(target=other.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{other.server_port}"
    assert f"--llama_cpp_url {address}/props: the server says 404" in mistake_in(f"{asked} {address}", run, workspace)
    other.shutdown()
    other.server_close()


def test_flags_that_contradict_are_a_line_each(workspace, run):
    asked = "--experiment_name z --dataset pocket_dialogs --zero_shot --do_predict "
    here = "--prediction_backend llama_cpp "
    for flags, expected in {
        "--llama_cpp_url http://localhost:8080": "--llama_cpp_url needs --prediction_backend llama_cpp",
        f"{here}--llama_cpp_url localhost": "expected a URL such as http://localhost:8080",
        f"{here}--llama_cpp_url http://localhost:1 --prediction_dtype q8_0": "--prediction_dtype q8_0 contradicts --llama_cpp_url",
        "--prediction_dtype q8_0": "--prediction_dtype q8_0 needs --prediction_backend llama_cpp",
    }.items():
        assert expected in mistake_in(f"{asked}{flags}", run, workspace)
