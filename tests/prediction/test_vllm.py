"""The real vLLM engine on a CPU: one engine per architecture, whose answers equal those of transformers in float32."""

from __future__ import annotations

import json
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import run_experiment
from compositional.adapters.peft_folder import StoredAdapter, read_shapes
from compositional.calibration import LC, CalibrationSpec
from compositional.calibration.parameters import Calibration
from compositional.models.model import Model
from compositional.prediction import PredictionSettings
from compositional.prediction.transformers_backend import TransformersGenerator
from compositional.prediction.vllm_backend import Engines, VllmGenerator
from helpers import ARCHITECTURES
from helpers.tiny_runs import METHODS, method_run

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="the engine on a CPU is tested; test_gpu.py is for GPUs")

# Engines are shared by tests with the same lengths: these are those of `method_run`.
VLLM = PredictionSettings(backend="vllm", max_new_tokens=12, max_prompt_length=1000, batch_size=64, dtype="float32")
# Longer than a block of the prefix cache, and alike but for their ends.
PROMPTS = [[5 + index % 90 for index in range(300)] + [9 + number] for number in range(6)]

COMPONENTS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@pytest.fixture(scope="module", params=ARCHITECTURES)
def served(request, engines, tiny_models, finished, tmp_path_factory):
    """An architecture's model, its engine, and a workspace in which every method has been run with transformers."""
    root = tmp_path_factory.mktemp(request.param)
    shutil.copytree(finished(request.param), root, dirs_exist_ok=True)
    return tiny_models[request.param], engines(request.param), root


def outputs(root: Path, name: str) -> list[str]:
    return [json.loads(line)["output"] for line in (root / "predictions" / name / "test.jsonl").read_text().splitlines()]


def said_with(served, adapter: Path | None) -> list[str]:
    """What the engine says to PROMPTS with an adapter."""
    model, shared, root = served
    stored = StoredAdapter(adapter) if adapter else None
    made = VllmGenerator(Model(str(model)), stored, VLLM, shared, root / "vllm.log")
    return [answer.text for answer in made.answers(PROMPTS)]


def said_with_transformers(served, adapter: Path | None) -> list[str]:
    stored = StoredAdapter(adapter) if adapter else None
    return [answer.text for answer in TransformersGenerator(Model(str(served[0])), stored, VLLM).answers(PROMPTS)]


def calibrated_in(component: str, merged: Path, folder: Path) -> Path:
    """A copy of a merge with LC's biases in the modules of one type, and zeros in all others."""
    calibrated = folder / component
    shutil.copytree(merged, calibrated)
    calibration = Calibration(CalibrationSpec(LC, for_each_component=True), read_shapes(merged))
    torch.manual_seed(3)
    with torch.no_grad():
        calibration.p[component].normal_(std=4.0)
    calibration.write(calibrated, "float32")
    return calibrated


def texts(served, name: str | None) -> list[str]:
    return said_with(served, served[2] / "stored_models" / name if name else None)


@pytest.mark.slow(35)
def test_every_method_says_with_vllm_what_it_says_with_transformers(served):
    model, shared, root = served
    said = {}
    for name in METHODS:
        expected = outputs(root, name)
        for kind in ("predictions", "output"):
            shutil.rmtree(root / kind / name)
        words = shlex.split(f"{method_run(model, name)} --prediction_backend vllm --workspace {root}")
        run_experiment.run(words, shared)
        said[name] = outputs(root, name)
        assert said[name] == expected, name
        assert any(expected), name
    assert all(said[name] != said["zero_shot"] for name in METHODS if name != "zero_shot")
    assert said["linear"] not in (said["lc"], said["lc_pp"])
    assert shared.started == 1


@pytest.mark.slow(3)
def test_calibrations_leak_neither_into_each_other_nor_into_the_base(served):
    order = [None, "lc", "linear", "lc_by_shape", None, "lc", "sums", "lc_by_shape", "lc", "linear"]
    said = [texts(served, name) for name in order]
    for first, name in enumerate(order):
        for second in range(first):
            assert (said[first] == said[second]) == (order[second] == name), (name, order[second])
    assert served[1].started == 1


@pytest.mark.slow(4)
def test_a_calibration_adds_its_very_biases_in_every_module(served, tmp_path):
    """A module whose bias went astray would not show in every answer: one calibration per module type, all others zero."""
    uncalibrated = texts(served, "linear")
    for component in COMPONENTS:
        folder = calibrated_in(component, served[2] / "stored_models" / "linear", tmp_path)
        assert said_with(served, folder) == said_with_transformers(served, folder) != uncalibrated, component


@pytest.mark.slow(30)
def test_in_bfloat16_too_a_calibration_adds_its_biases_in_every_module(tiny_models, finished, tmp_path):
    """On some processors vLLM packs weights of this precision, and with them the biases that they have by then."""
    base, merged = Model(str(tiny_models["llama"])), finished("llama") / "stored_models" / "linear"
    settings = replace(VLLM, dtype="bfloat16")
    with Engines(StoredAdapter(merged).rank) as started:

        def said(folder: Path) -> list[str]:
            made = VllmGenerator(base, StoredAdapter(folder), settings, started, tmp_path / "vllm.log")
            return [answer.text for answer in made.answers(PROMPTS)]

        uncalibrated = said(merged)
        for component in COMPONENTS:
            assert said(calibrated_in(component, merged, tmp_path)) != uncalibrated, component
        assert said(merged) == uncalibrated


@pytest.mark.slow
def test_an_adapter_of_other_content_under_the_same_name_is_another_adapter(served, tmp_path):
    folder = tmp_path / "adapter"
    said = []
    for name in ("sums", "translation", "sums"):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(served[2] / "stored_models" / name, folder)
        said.append(said_with(served, folder))
    assert said[0] == said[2] != said[1]


@pytest.mark.slow
def test_the_engines_messages_go_to_the_experiments_log_and_not_to_the_screen(served, capfd):
    texts(served, "lc")
    captured = capfd.readouterr()
    assert "INFO" not in captured.out + captured.err
    log = served[1]._engine._log_path.read_text()  # of the test that started the engine
    assert "EngineCore" in log
    assert "Starting to load model" in log


@pytest.mark.slow
def test_an_answer_that_reaches_the_limit_is_cut_off_alike(served):
    model, shared, root = served
    base = Model(str(model))
    with_vllm = VllmGenerator(base, None, VLLM, shared, root / "vllm.log").answers(PROMPTS)
    assert with_vllm == TransformersGenerator(base, None, VLLM).answers(PROMPTS)


@pytest.mark.slow
def test_a_served_adapter_knows_its_rank_and_its_biases(served):
    root = served[2]
    read = {name: StoredAdapter(root / "stored_models" / name) for name in ("sums", "linear", "lc", "lc_pp")}
    assert {name: one.rank for name, one in read.items()} == {"sums": 4, "linear": 8, "lc": 8, "lc_pp": 12}
    assert {name for name, one in read.items() if one.has_biases} == {"lc"}
    assert len({one.hash for one in read.values()}) == 4
