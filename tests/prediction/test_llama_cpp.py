"""The back end of llama.cpp: the real server, whose texts in float32 are those of transformers."""

from __future__ import annotations

import gc
import shutil

import pytest
import torch

from compositional.core.files import read_json
from compositional.core.processes import holding
from compositional.prediction.predict import read_predictions
from helpers.composing import mistake_in
from helpers.tiny_runs import method_run

FULL = "--adapter_dtype float32 "


@pytest.fixture(autouse=True)
def on_a_cpu(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.slow(10)
@pytest.mark.parametrize("method", ["zero_shot", "linear", "multi_step", "lc", "lc_pp"])
@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
def test_llama_cpp_and_transformers_say_the_same(architecture, method, tiny_models, single_tasks, workspace, run):
    shutil.copytree(single_tasks(architecture), workspace.root)
    run(f"{method_run(tiny_models[architecture], method)}{FULL}--prediction_backend transformers")
    expected = read_predictions(workspace.predictions(method, "test"))
    shutil.rmtree(workspace.predictions_folder(method))
    run(f"{method_run(tiny_models[architecture], method)}{FULL}--prediction_backend llama_cpp")
    assert read_predictions(workspace.predictions(method, "test")) == expected
    assert any(one.output for one in expected)
    made_by = read_json(workspace.results(method))["predictions_made_by"]
    assert {one["backend"] for one in made_by.values()} == {"llama_cpp"}


@pytest.mark.slow(10)
def test_a_run_that_was_cut_short_goes_on_where_it_stopped(tiny_models, trained, workspace, run):
    asked = f"{method_run(tiny_models['llama'], 'linear')}{FULL}--prediction_backend llama_cpp --prediction_batch_size 2"
    run(asked)
    path = workspace.predictions("linear", "test")
    whole = path.read_text()
    path.unlink()
    workspace.results("linear").unlink()
    unfinished = path.with_name(path.name + ".partial")
    unfinished.write_text("".join(whole.splitlines(keepends=True)[:4]))
    left, others = (workspace.logs("linear") / f".gguf-of-{whose}" for whose in ("a-killed-run", "another-run"))
    for folder in (left, others):
        folder.mkdir()
        (folder / "in_use").touch()
    with holding(others / "in_use"):
        run(asked)
    assert path.read_text() == whole
    gc.collect()
    assert list(workspace.logs("linear").glob(".gguf*")) == [others]


@pytest.mark.slow(10)
def test_what_llama_cpp_does_not_run_is_a_line(tiny_models, single_tasks, workspace, run):
    shutil.copytree(single_tasks("stablelm"), workspace.root)
    asked = f"{method_run(tiny_models['stablelm'], 'lc')}--prediction_backend llama_cpp"
    assert "llama.cpp's graph of stablelm adds no bias after down_proj" in mistake_in(asked, run, workspace)


@pytest.mark.slow(5)
def test_a_proxy_does_not_stand_between_a_run_and_its_own_server(tiny_models, trained, workspace, run, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    run(f"{method_run(tiny_models['llama'], 'zero_shot')}{FULL}--prediction_backend llama_cpp")
    assert len(read_predictions(workspace.predictions("zero_shot", "test"))) == 8
