"""Dropout by positions: the distribution of a mask, the gradients of a mask, and none of it outside training."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from compositional.training import LoraSettings, TrainingFolders
from compositional.training.compilation import missing_compiler
from compositional.training.dropout import DroppedLinear, drop_by_positions, dropped
from compositional.training.recipes import train_lora
from helpers.training import optimization, sequences_of


def dropped_linear(p: float) -> DroppedLinear:
    torch.manual_seed(0)
    return DroppedLinear(torch.nn.Linear(10, 4, bias=False), p, torch.tensor(7))


@pytest.mark.parametrize("p", [0.05, 0.5])
def test_each_entry_is_dropped_with_the_probability_and_apart_from_the_others(p):
    draws, entries = 4000, torch.ones(3, 4)
    zeros = torch.stack([dropped(entries, p, torch.tensor(seed)) == 0 for seed in range(draws)]).double().flatten(1)
    spread = (p * (1 - p) / draws) ** 0.5
    assert (zeros.mean(dim=0) - p).abs().max() < 4 * spread
    correlation = torch.corrcoef(zeros.T).fill_diagonal_(0)
    assert correlation.abs().max() < 4 / draws**0.5


def test_outputs_and_gradients_are_those_of_a_rescaled_mask():
    linear, x = dropped_linear(0.3), torch.randn(2, 5, 10, requires_grad=True)
    mask = dropped(torch.ones(2, 5, 10), 0.3, linear.seed) / 0.7
    assert 0 < (mask == 0).sum() < mask.numel()
    expected = torch.nn.functional.linear(x * mask, linear.weight)
    direction = torch.randn(2, 5, 4)
    wanted = torch.autograd.grad(expected, (x, linear.weight), direction)
    output = linear(x)
    assert torch.allclose(output, expected, atol=1e-6)
    for got, want in zip(torch.autograd.grad(output, (x, linear.weight), direction), wanted, strict=True):
        assert torch.allclose(got, want, atol=1e-6)


def test_nothing_is_dropped_outside_training():
    linear, x = dropped_linear(0.3).eval(), torch.randn(2, 10)
    assert torch.equal(linear(x), x @ linear.weight.T)


def test_each_module_and_each_forward_pass_drops_other_entries(tiny_models):
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(tiny_models["llama"]),
        LoraConfig(r=4, lora_dropout=0.1, target_modules=["q_proj", "down_proj"]),
    ).train()
    drop_by_positions(model)
    layers = [module for module in model.modules() if isinstance(module, DroppedLinear)]
    seeds = []
    for _ in range(3):
        model(input_ids=torch.tensor([[1, 2, 3]]))
        seeds += [int(layer.seed) for layer in layers]
    assert len(layers) == 2 * model.config.num_hidden_layers
    assert len(set(seeds)) == 3 * len(layers)


@pytest.mark.slow
@pytest.mark.parametrize("compiled", ["off", "on"])
def test_a_training_with_dropout_is_repeatable(compiled, tiny_models, tiny_tokenizer, tmp_path):
    if compiled == "on" and (missing := missing_compiler()):
        pytest.skip(missing)

    def trained(dropout: float, folder: str) -> torch.Tensor:
        adapter, _ = train_lora(
            AutoModelForCausalLM.from_pretrained(tiny_models["llama"]),
            "llama",
            sequences_of(tiny_tokenizer, 12),
            tiny_tokenizer.pad_token_id,
            LoraSettings(4, 8, dropout, ["q_proj", "down_proj"]),
            optimization(torch_compile=compiled),
            TrainingFolders(tmp_path / folder / "checkpoints", tmp_path / folder / "logs"),
            "test",
        )
        return torch.cat([one.B.flatten() for one in adapter.factors.values()])

    first = trained(0.1, "first")
    assert torch.equal(first, trained(0.1, "second"))
    assert not torch.allclose(first, trained(0.0, "without"), rtol=0.01)
