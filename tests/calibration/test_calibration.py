"""Learnable Calibration: parameter counts, what it computes, and how it is stored."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM

from compositional.adapters.lora import LoraAdapter, LoraFactors
from compositional.adapters.peft_folder import StoredAdapter, read_shapes, write_adapter
from compositional.calibration import LC, LC_PLUS_PLUS, METHODS, CalibrationSpec
from compositional.calibration.parameters import Calibration, read_biases
from compositional.core.errors import UserError
from compositional.models.model import Model
from compositional.prediction import PredictionSettings
from compositional.prediction.transformers_backend import TransformersGenerator
from compositional.training.corrected import CorrectedModel, fold_adapter
from helpers import ARCHITECTURES
from helpers.calibrating import MODULES, random_calibration, random_merge, shapes_of

# layers, hidden, key-value and feed-forward sizes of the paper's models, and its parameter counts of LC and LC++
PAPER = {
    "Llama-3.2-1B": (16, 2048, 512, 8192, 23_552, 176_128),
    "Qwen2.5-1.5B": (28, 1536, 256, 8960, 23_040, 164_864),
    "StableLM-2-1.6B": (24, 2048, 2048, 5632, 21_504, 157_696),
}


@pytest.mark.parametrize("model", PAPER)
def test_parameter_counts_are_the_papers(model):
    *sizes, lc, lc_pp = PAPER[model]
    shapes = shapes_of(*sizes)
    assert Calibration(CalibrationSpec(LC, True), shapes).num_parameters == lc
    assert Calibration(CalibrationSpec(LC_PLUS_PLUS, True, rank=4), shapes).num_parameters == lc_pp


def test_without_components_modules_of_equal_shape_share_one_set():
    shapes = shapes_of(2, 8, 4, 12)
    calibration = Calibration(CalibrationSpec(LC, False), shapes)
    assert sorted(calibration.p) == ["12x8", "4x8", "8x12", "8x8"]
    assert calibration.component_of_module["model.layers.0.q_proj"] == calibration.component_of_module["model.layers.1.o_proj"]


def test_components_of_unequal_shape_are_refused():
    with pytest.raises(UserError, match="several shapes"):
        Calibration(CalibrationSpec(LC, True), {"a.0.up_proj": (4, 8), "a.1.up_proj": (6, 8)})


@pytest.mark.parametrize("method", METHODS)
def test_an_untrained_calibration_changes_nothing(method, tiny_models):
    model = AutoModelForCausalLM.from_pretrained(tiny_models["llama"])
    ids = torch.arange(5, 25).view(2, 10)
    with torch.no_grad():
        before = model(ids).logits
        shapes = {path: (factors.d_out, factors.d_in) for path, factors in random_merge(tiny_models["llama"]).factors.items()}
        calibrated = CorrectedModel(model, Calibration(CalibrationSpec(method, True), shapes))
        torch.testing.assert_close(calibrated(input_ids=ids).logits, before, rtol=0, atol=0)


@pytest.mark.parametrize("method", METHODS)
def test_one_module_computes_the_papers_formula(method):
    W, x = torch.randn(5, 6), torch.randn(3, 6)
    merged = LoraAdapter("m", "base", {"up_proj": LoraFactors(torch.randn(2, 6), torch.randn(5, 2), 0.7)})
    calibration = random_calibration(merged, method)
    linear = torch.nn.Linear(6, 5, bias=False)
    linear.weight.data = W.clone()
    model = torch.nn.Module()
    model.up_proj, model.config = linear, None
    fold_adapter(model, merged)
    CorrectedModel(model, calibration)
    correction = calibration.p["up_proj"] if method == LC else x @ calibration.P1["up_proj"].T @ calibration.P2["up_proj"].T
    expected = x @ W.T + 0.7 * x @ merged.factors["up_proj"].A.T @ merged.factors["up_proj"].B.T + correction
    torch.testing.assert_close(model.up_proj(x), expected)


@pytest.mark.parametrize("for_each_component", [True, False])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_stored_calibration_gives_the_logits_it_was_trained_with(architecture, method, for_each_component, tiny_models, tmp_path):
    folder = tiny_models[architecture]
    merged = random_merge(folder)
    calibration = random_calibration(merged, method, for_each_component)
    write_adapter(tmp_path, calibration.fold_into(merged), "float32")
    calibration.write(tmp_path, "float32")
    generator = TransformersGenerator(
        Model(str(folder)), StoredAdapter(tmp_path), PredictionSettings("transformers", 4, 64, 2, "float32")
    )
    trained = AutoModelForCausalLM.from_pretrained(folder)
    ids = torch.arange(5, 25).view(2, 10)
    with torch.no_grad():
        merge_alone_model = AutoModelForCausalLM.from_pretrained(folder)
        fold_adapter(merge_alone_model, merged)
        merge_alone = merge_alone_model(ids).logits
        fold_adapter(trained, merged)
        as_trained = CorrectedModel(trained, calibration)(input_ids=ids).logits
        as_stored = generator.model(ids).logits
    torch.testing.assert_close(as_stored, as_trained, rtol=1e-4, atol=1e-4)
    assert (as_trained - merge_alone).abs().max() > 0.1


def test_only_lc_has_biases_to_add(tiny_models, tmp_path):
    merged = random_merge(tiny_models["llama"])
    for method, expected in ((LC, len(merged.factors)), (LC_PLUS_PLUS, 0)):
        folder = tmp_path / method
        calibration = random_calibration(merged, method)
        write_adapter(folder, calibration.fold_into(merged), "float32")
        calibration.write(folder, "float32")
        assert len(read_biases(folder, read_shapes(folder))) == expected


def test_a_calibrated_model_trains_and_saves_the_calibration_alone(tiny_models):
    model = AutoModelForCausalLM.from_pretrained(tiny_models["llama"])
    merged = random_merge(tiny_models["llama"])
    calibrated = CorrectedModel(model, random_calibration(merged, LC))
    names = {name for name, parameter in calibrated.named_parameters() if parameter.requires_grad}
    assert names == set(calibrated.state_dict()) == {f"correction.p.{name}" for name in MODULES}
    calibrated(input_ids=torch.arange(5, 25).view(2, 10)).logits.square().mean().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in calibrated.parameters())
    own = {id(parameter) for parameter in calibrated.parameters()}
    assert all(parameter.grad is None for parameter in model.parameters() if id(parameter) not in own)


@torch.no_grad()
def test_a_corrected_model_is_not_corrected_a_second_time(tiny_models):
    model = AutoModelForCausalLM.from_pretrained(tiny_models["llama"])
    merged, ids = random_merge(tiny_models["llama"]), torch.arange(5, 25).view(2, 10)
    untouched = model(ids).logits
    first = CorrectedModel(model, random_calibration(merged, LC))
    once = first(input_ids=ids).logits
    for method in METHODS:
        with pytest.raises(ValueError, match="corrected already"):
            CorrectedModel(model, random_calibration(merged, method))
    assert torch.equal(model(ids).logits, once)
    first.release()
    assert torch.equal(model(ids).logits, untouched)
    again = CorrectedModel(model, random_calibration(merged, LC))
    assert torch.equal(again(input_ids=ids).logits, once)


def test_stored_biases_are_as_large_as_their_numbers(tmp_path):
    shapes = shapes_of(16, 2048, 512, 8192)
    calibration = Calibration(CalibrationSpec(LC, True), shapes)
    size = calibration.write(tmp_path, "float16").stat().st_size
    assert 2 * 23_552 <= size <= 2 * 23_552 + 1024
