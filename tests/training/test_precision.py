"""The precision of a training follows from the flags, the model's size and the device; a bfloat16 base trains as well."""

from __future__ import annotations

import shlex

import pytest
import torch
from transformers import AutoModelForCausalLM

import run_experiment
from compositional.calibration import LC_PLUS_PLUS, CalibrationSpec
from compositional.core.machine import has_fast_bfloat16
from compositional.training import LoraSettings, TrainingFolders
from compositional.training.precision import Precision, resolve_precision
from compositional.training.recipes import train_calibration, train_lora
from helpers.calibrating import random_merge
from helpers.training import optimization, sequences_of

SMALL, LARGE = 2_000_000, 100_000_000


@pytest.mark.parametrize(
    ("train_dtype", "bf16", "parameters", "on_gpu", "has_it", "is_fast", "expected"),
    [
        ("auto", False, LARGE, True, True, True, "bfloat16 base"),
        ("auto", False, LARGE, False, True, True, "bfloat16 mixed"),
        ("auto", False, LARGE, False, True, False, "float32"),
        ("auto", False, SMALL, True, True, True, "float32"),
        ("bfloat16", False, SMALL, False, False, False, "bfloat16 base"),
        ("float32", False, LARGE, True, True, True, "float32"),
        ("auto", True, LARGE, True, True, True, "bfloat16 mixed"),
        ("float32", True, SMALL, False, True, False, "bfloat16 mixed"),
        ("auto", True, LARGE, False, False, False, "float32"),
    ],
)
def test_it_follows_from_flags_size_and_device(train_dtype, bf16, parameters, on_gpu, has_it, is_fast, expected, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: on_gpu)
    monkeypatch.setattr("compositional.training.precision.has_bfloat16", lambda: has_it)
    monkeypatch.setattr("compositional.training.precision.has_fast_bfloat16", lambda: is_fast)
    assert str(resolve_precision(train_dtype, bf16, parameters)) == expected


@pytest.mark.parametrize(
    ("has_amx", "has_avx512", "seconds", "expected"),
    [
        (True, True, {"bfloat16": 9.0, "float32": 1.0}, True),
        (False, True, {"bfloat16": 0.5, "float32": 1.0}, True),
        (False, True, {"bfloat16": 0.9, "float32": 1.0}, False),
        (False, False, {"bfloat16": 0.5, "float32": 1.0}, False),
    ],
)
def test_bfloat16_is_fast_with_amx_and_where_it_is_measured_to_be(has_amx, has_avx512, seconds, expected, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.cpu._is_amx_tile_supported", lambda: has_amx)
    monkeypatch.setattr("torch.cpu._is_avx512_bf16_supported", lambda: has_avx512)
    monkeypatch.setattr("compositional.core.machine.has_bfloat16", lambda: True)
    monkeypatch.setattr("compositional.core.machine._seconds_of_product", seconds.get)
    has_fast_bfloat16.cache_clear()
    try:
        assert has_fast_bfloat16() is expected
    finally:
        has_fast_bfloat16.cache_clear()


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "calibration"])
@pytest.mark.parametrize(
    ("precision", "logits"),
    [(Precision(), torch.float32), (Precision(autocast=True), torch.bfloat16), (Precision("bfloat16", True), torch.bfloat16)],
    ids=str,
)
def test_products_are_in_the_asked_precision_and_what_is_trained_in_float32(
    precision, logits, method, tiny_models, tiny_tokenizer, tmp_path
):
    seen, sequences = set(), sequences_of(tiny_tokenizer, 24)
    model = AutoModelForCausalLM.from_pretrained(tiny_models["llama"], dtype=getattr(torch, precision.weights))
    model.lm_head.register_forward_hook(lambda module, inputs, output: seen.add(output.dtype))
    settings = optimization(precision=precision, epochs=4.0)
    folders, pad = TrainingFolders(tmp_path / "checkpoints", tmp_path / "logs"), tiny_tokenizer.pad_token_id
    if method == "lora":
        lora = LoraSettings(4, 8, 0.0, ["q_proj", "down_proj"])
        adapter, report = train_lora(model, "llama", sequences, pad, lora, settings, folders, "test")
        trained = [factors.B for factors in adapter.factors.values()]
    else:
        merges, spec = [random_merge(tiny_models["llama"])], CalibrationSpec(LC_PLUS_PLUS, True)
        calibration, report = train_calibration(model, merges, spec, sequences, pad, settings, folders, "test")
        trained = list(calibration.P2.values())
    assert report.precision == str(precision)
    assert seen == {logits}
    assert all(tensor.dtype == torch.float32 for tensor in trained)
    assert report.last_loss < report.first_loss - 0.1


@pytest.mark.slow
def test_bf16_on_a_cpu_without_its_instructions_is_said_and_done_in_float32(workspace, monkeypatch, caplog):
    monkeypatch.setattr("compositional.training.precision.has_bfloat16", lambda: False)
    command = "--experiment_name one --dataset pocket_dialogs --stored_model_name one --do_train --max_train_examples 16 --bf16"
    run_experiment.run(["@configs/pocket.txt", *shlex.split(command), "--workspace", str(workspace.root)])
    said = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert said == ["--bf16: this CPU has no bfloat16 instructions, so the training is in float32"]
