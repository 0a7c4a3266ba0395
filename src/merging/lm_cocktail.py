"""LM-Cocktail: the weights of the linear merge follow from each adapter's own loss on a few examples.

w = softmax(-loss_i / temperature) with loss_i that of W + ΔW_i, and ΔW = Σ w_i ΔW_i. Source: arXiv 2311.13534, whose code has the
temperature 5 and mixes whole models; here the base model is in each of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from src.adapters.lora import LoraAdapter, with_learned_weights
from src.errors import UserError

if TYPE_CHECKING:
    from src.training.merge_examples import MergeExamples

NUM_EXAMPLES = 5
FINDS_WEIGHTS = True


def merge(adapters: list[LoraAdapter], weights: list[float], examples: MergeExamples, *, temperature: float = 5.0) -> LoraAdapter:
    import torch

    from src.adapters.updates import AdapterUpdates

    if temperature <= 0:
        raise UserError(f"--lora_merge_options temperature={temperature}: must be above 0")
    losses = torch.tensor([examples.loss(AdapterUpdates([adapter], [1.0])) for adapter in adapters])
    return with_learned_weights("lm_cocktail", adapters, torch.softmax(-losses / temperature, dim=0).tolist())
