"""Compiled training: when it is worth it, what it lacks, and that it learns what uncompiled training learns."""

from __future__ import annotations

import fcntl
import os

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from compositional.calibration import LC, LC_PLUS_PLUS, CalibrationSpec
from compositional.training import LoraSettings, TrainingFolders, compilation
from compositional.training.recipes import train_calibration, train_lora
from helpers.calibrating import random_merge
from helpers.training import optimization, sequences_of


@pytest.fixture(autouse=True)
def on_a_cpu(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def test_it_is_worth_it_for_a_large_model_and_a_long_run_only():
    assert compilation.is_worthwhile(100_000_000, 200_000, autocast=False)
    assert not compilation.is_worthwhile(100_000_000, 10_000, autocast=False)
    assert not compilation.is_worthwhile(2_000_000, 400_000, autocast=False), "Pocket's longest training"


@pytest.mark.parametrize("has_amx", [True, False])
def test_it_is_worth_it_in_mixed_precision_with_amx_only(has_amx, monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: has_amx)
    assert compilation.is_worthwhile(100_000_000, 200_000, autocast=True) is has_amx


def test_a_machine_without_a_compiler_is_told_what_it_lacks(monkeypatch):
    from torch._inductor import cpp_builder
    from torch._inductor.exc import InvalidCxxCompiler

    def none() -> str:
        raise InvalidCxxCompiler

    monkeypatch.setattr(cpp_builder, "get_cpp_compiler", none)
    assert compilation.missing_compiler() == "there is no C++ compiler (g++ or clang++)"


@pytest.mark.parametrize(("is_held", "is_kept"), [(False, False), (True, True), (None, True)])
def test_the_cache_is_made_again_after_a_run_that_was_killed(is_held, is_kept, tmp_path, monkeypatch):
    """`is_held`: a mark is there whose process lives (True) or has died (False), or none (None)."""
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    monkeypatch.setattr("torch._inductor.runtime.cache_dir_utils.default_cache_dir", lambda: str(tmp_path / "cache"))
    folder = tmp_path / "cache_compositional"
    folder.mkdir()
    (folder / "compiled.so").touch()
    with open(tmp_path / "mark", "w") as file:
        if is_held is not None:
            os.rename(file.name, folder / "in_use_by_1")
        if is_held:
            fcntl.flock(file, fcntl.LOCK_EX)
        with compilation._whole_cache():
            assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(folder)
            assert (folder / "compiled.so").exists() is is_kept
            assert (folder / f"in_use_by_{os.getpid()}").exists()
    assert "TORCHINDUCTOR_CACHE_DIR" not in os.environ
    assert not (folder / f"in_use_by_{os.getpid()}").exists()


def test_a_cache_of_the_users_own_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    (tmp_path / "in_use_by_1").touch()
    with compilation._whole_cache():
        assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["in_use_by_1"]


@pytest.mark.slow
@pytest.mark.skipif(compilation.missing_compiler() is not None, reason=f"torch.compile: {compilation.missing_compiler()}")
@pytest.mark.parametrize(("architecture", "kind"), [("llama", "lora"), ("qwen2", LC), ("stablelm", LC_PLUS_PLUS)])
def test_compiled_training_learns_what_uncompiled_training_learns(architecture, kind, tiny_models, tiny_tokenizer, tmp_path):
    """With batches of several lengths, and one compilation for all layers."""
    torch.manual_seed(0)
    layers = {"num_hidden_layers": 5} | ({"layer_types": ["full_attention"] * 5} if architecture == "qwen2" else {})
    config, folder = AutoConfig.from_pretrained(tiny_models[architecture], **layers), tmp_path / "base"
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    sequences, pad = sequences_of(tiny_tokenizer, 24), tiny_tokenizer.pad_token_id
    merges = [random_merge(folder)]

    def trained(torch_compile: str) -> torch.Tensor:
        model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="sdpa")
        settings = optimization(torch_compile=torch_compile, device_batch_tokens=100)
        folders = TrainingFolders(tmp_path / torch_compile, tmp_path / "logs")
        if kind == "lora":
            lora = LoraSettings(4, 8, 0.0, ["q_proj", "down_proj"])
            adapter, report = train_lora(model, "base", sequences, pad, lora, settings, folders, "test")
            tensors = [factors.B for factors in adapter.factors.values()]
        else:
            spec = CalibrationSpec(kind, True)
            calibration, report = train_calibration(model, merges, spec, sequences, pad, settings, folders, "test")
            tensors = [parameter.detach() for parameter in calibration.parameters()]
        assert report.compiled == (torch_compile == "on")
        return torch.cat([tensor.flatten() for tensor in tensors])

    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    compiled = trained("on")
    # By whether a batch has padding, and one example or several, but not by layer or length.
    assert 0 < torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 3
    plain = trained("off")
    torch.testing.assert_close(compiled, plain, rtol=0.05, atol=2e-3)
    assert plain.abs().max() > 0.01
