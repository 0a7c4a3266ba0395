"""Random adapters, of one small module or made by PEFT itself."""

from __future__ import annotations

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from compositional.adapters.lora import LoraAdapter, LoraFactors
from compositional.adapters.peft_folder import read_adapter

D_IN, D_OUT = 6, 5


def random_adapter(
    name: str, rank: int, scaling: float, seed: int, paths: tuple[str, ...] = ("model.layers.0.mlp.up_proj",)
) -> LoraAdapter:
    generator = torch.Generator().manual_seed(seed)
    factors = {
        path: LoraFactors(torch.randn(rank, D_IN, generator=generator), torch.randn(D_OUT, rank, generator=generator), scaling)
        for path in paths
    }
    return LoraAdapter(name, "base", factors)


def peft_model_with_adapters(folder, settings: list[dict]) -> PeftModel:
    """A tiny model with one random PEFT adapter per entry of `settings`, named a0, a1, ..."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    targets = ["q_proj", "v_proj", "down_proj"]
    peft_model = None
    for number, options in enumerate(settings):
        config = LoraConfig(target_modules=targets, task_type="CAUSAL_LM", **options)
        if peft_model is None:
            peft_model = get_peft_model(model, config, adapter_name="a0")
        else:
            peft_model.add_adapter(f"a{number}", config)
    torch.manual_seed(3)
    for name, parameter in peft_model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return peft_model


def saved_adapters(peft_model: PeftModel, count: int, folder) -> list[LoraAdapter]:
    peft_model.save_pretrained(str(folder))
    return [read_adapter(folder / f"a{number}") for number in range(count)]
