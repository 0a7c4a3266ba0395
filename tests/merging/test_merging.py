"""Adapters on disk and merges, by value and against PEFT itself."""

from __future__ import annotations

import json
import math

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from compositional.adapters.lora import LoraAdapter, LoraFactors
from compositional.adapters.peft_folder import read_adapter, read_shapes, write_adapter
from compositional.core.errors import UserError
from compositional.merging import merge, strategies
from helpers import ARCHITECTURES
from helpers.merging import D_IN, D_OUT, peft_model_with_adapters, random_adapter, saved_adapters


def delta(adapter: LoraAdapter, path: str = "model.layers.0.mlp.up_proj") -> torch.Tensor:
    return adapter.factors[path].delta()


def test_linear_is_the_mean_of_the_updates_for_unequal_ranks_and_alpha_unlike_rank():
    one, two = random_adapter("one", 2, 16 / 2, 1), random_adapter("two", 4, 8 / 4, 2)
    by_hand = 0.5 * 8.0 * one.factors["model.layers.0.mlp.up_proj"].B @ one.factors["model.layers.0.mlp.up_proj"].A
    by_hand += 0.5 * 2.0 * two.factors["model.layers.0.mlp.up_proj"].B @ two.factors["model.layers.0.mlp.up_proj"].A
    merged = merge("linear", [one, two], [])
    torch.testing.assert_close(delta(merged), by_hand)
    assert merged.factors["model.layers.0.mlp.up_proj"].rank == 6


def test_linear_takes_negative_weights_and_three_adapters():
    adapters = [random_adapter(str(seed), seed, 1.5, seed) for seed in (1, 2, 3)]
    weights = [1.0, -0.5, 0.25]
    by_hand = sum(weight * delta(adapter) for weight, adapter in zip(weights, adapters, strict=True))
    torch.testing.assert_close(delta(merge("linear", adapters, weights)), by_hand)


def test_linear_keeps_modules_that_only_one_adapter_updates():
    both = random_adapter("both", 2, 1.0, 1, ("a.q_proj", "a.v_proj"))
    one = random_adapter("one", 2, 1.0, 2, ("a.q_proj",))
    merged = merge("linear", [both, one], [])
    torch.testing.assert_close(delta(merged, "a.v_proj"), 0.5 * delta(both, "a.v_proj"))


@pytest.mark.parametrize(
    "settings",
    [
        [{"r": 4, "lora_alpha": 16}, {"r": 4, "lora_alpha": 6}],
        [{"r": 4, "lora_alpha": 16, "use_rslora": True}, {"r": 4, "lora_alpha": 6, "use_rslora": True}],
    ],
)
@pytest.mark.parametrize("weights", [[0.5, 0.5], [1.0, -0.7]])
def test_peft_linear_equals_peft_in_every_module(settings, weights, tiny_models, tmp_path):
    peft_model = peft_model_with_adapters(tiny_models["llama"], settings)
    ours = merge("peft_linear", saved_adapters(peft_model, 2, tmp_path), weights)
    peft_model.add_weighted_adapter(["a0", "a1"], weights, "merged", combination_type="linear")
    checked = 0
    for path, module in peft_model.get_base_model().named_modules():
        if hasattr(module, "lora_A") and "merged" in module.lora_A:
            torch.testing.assert_close(ours.factors[path].delta(), module.get_delta_weight("merged").detach(), rtol=1e-5, atol=1e-6)
            checked += 1
    assert checked == len(ours.factors) == 6


def test_peft_linear_is_not_the_mean_of_the_updates():
    adapters = [random_adapter("one", 4, 1.0, 1), random_adapter("two", 4, 1.0, 2)]
    assert not torch.allclose(delta(merge("peft_linear", adapters, [])), delta(merge("linear", adapters, [])), atol=0.1)


def test_peft_linear_refuses_unequal_ranks_as_peft_does():
    with pytest.raises(UserError, match="use linear"):
        merge("peft_linear", [random_adapter("one", 2, 1.0, 1), random_adapter("two", 3, 1.0, 2)], [])


def test_adapters_of_other_bases_or_shapes_are_refused():
    one = random_adapter("one", 2, 1.0, 1)
    other_base = LoraAdapter("two", "another", one.factors)
    with pytest.raises(UserError, match="base models differ"):
        merge("linear", [one, other_base], [])
    wide = LoraFactors(torch.zeros(2, D_IN + 1), torch.zeros(D_OUT, 2), 1.0)
    with pytest.raises(UserError, match="5 × 6 in one and 5 × 7"):
        merge("linear", [one, LoraAdapter("wide", "base", {"model.layers.0.mlp.up_proj": wide})], [])


@pytest.mark.parametrize(
    "options",
    [
        {"r": 4, "lora_alpha": 16},
        {"r": 4, "lora_alpha": 6, "use_rslora": True},
        {"r": 4, "lora_alpha": 6, "rank_pattern": {"q_proj": 2}, "alpha_pattern": {"layers.1.mlp.down_proj": 9}},
    ],
)
def test_reading_a_peft_folder_gives_the_updates_that_peft_computes(options, tiny_models, tmp_path):
    peft_model = peft_model_with_adapters(tiny_models["qwen2"], [options])
    (adapter,) = saved_adapters(peft_model, 1, tmp_path)
    for path, module in peft_model.get_base_model().named_modules():
        if hasattr(module, "lora_A"):
            torch.testing.assert_close(adapter.factors[path].delta(), module.get_delta_weight("a0").detach())


def test_a_written_adapter_is_read_back_and_loaded_by_peft_with_the_same_updates(tiny_models, tmp_path):
    shapes = {"model.layers.0.self_attn.q_proj": (64, 64), "model.layers.1.self_attn.q_proj": (64, 64)}
    factors = {
        path: LoraFactors(torch.randn(rank, d_in), torch.randn(d_out, rank), scaling)
        for (path, (d_out, d_in)), rank, scaling in zip(shapes.items(), (2, 5), (0.5, 3.0), strict=True)
    }
    write_adapter(tmp_path / "uneven", LoraAdapter("uneven", str(tiny_models["llama"]), factors), "float32")
    again = read_adapter(tmp_path / "uneven")
    loaded = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_models["llama"]), str(tmp_path / "uneven"))
    modules = dict(loaded.get_base_model().named_modules())
    for path, own in factors.items():
        torch.testing.assert_close(again.factors[path].delta(), own.delta())
        torch.testing.assert_close(modules[path].get_delta_weight("default").detach(), own.delta())
    assert read_shapes(tmp_path / "uneven") == shapes


def test_a_trained_adapter_keeps_its_alpha_on_disk(tmp_path):
    write_adapter(tmp_path / "a", random_adapter("a", 32, 16 / 32, 0), "float16")
    config = json.loads((tmp_path / "a" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (32, 16)


def test_a_folder_that_is_no_plain_lora_is_refused(tmp_path):
    write_adapter(tmp_path / "a", random_adapter("a", 2, 1.0, 0), "float32")
    path = tmp_path / "a" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"use_dora": True}))
    with pytest.raises(UserError, match="only plain LoRA"):
        read_adapter(tmp_path / "a")


def test_strategies_are_the_files_of_the_folder():
    assert {"linear", "peft_linear"} <= set(strategies())


def test_rslora_scaling_is_read_as_alpha_over_the_root_of_rank(tmp_path):
    write_adapter(tmp_path / "a", random_adapter("a", 4, 1.0, 0), "float32")
    path = tmp_path / "a" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"use_rslora": True, "lora_alpha": 6}))
    assert math.isclose(read_adapter(tmp_path / "a").factors["model.layers.0.mlp.up_proj"].scaling, 6 / 2)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("strategy", ["linear", "peft_linear"])
def test_a_merge_through_its_folder_gives_the_logits_of_folded_weights(architecture, strategy, tiny_models, tmp_path):
    from compositional.training.corrected import fold_adapter

    folder = tiny_models[architecture]
    peft_model = peft_model_with_adapters(folder, [{"r": 4, "lora_alpha": 8}, {"r": 4, "lora_alpha": 2}])
    merged = merge(strategy, saved_adapters(peft_model, 2, tmp_path), [])
    write_adapter(tmp_path / "merged", merged, "float32")
    ids = torch.arange(5, 25).view(2, 10)
    with torch.no_grad():
        through_folder = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folder), str(tmp_path / "merged"))(
            ids
        ).logits
        folded = AutoModelForCausalLM.from_pretrained(folder)
        untouched = folded(ids).logits
        fold_adapter(folded, merged)
        torch.testing.assert_close(through_folder, folded(ids).logits, rtol=1e-4, atol=1e-4)
    assert (through_folder - untouched).abs().max() > 0.1
