"""What PEFT 0.21's `add_weighted_adapter` does with the factors of adapters, by our own arithmetic: it merges A's and B's apart."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from src.adapters.lora import LoraAdapter, LoraFactors, merged_by_module
from src.arithmetic.sparsity import generator_for
from src.errors import UserError

# From weights and tensors (the A's, or the B's, of one module), and a random stream for each of the tensors.
MergeFactors = Callable[[list[float], list[torch.Tensor], list[torch.Generator]], torch.Tensor]


def rank_of(adapter: LoraAdapter) -> int:
    return max(factors.rank for factors in adapter.factors.values())


def common_scaling(adapters: list[LoraAdapter], rank: int) -> float:
    """PEFT gives the merge alpha = rank and the first adapter's settings, so that with rsLoRA it is √rank stronger."""
    return math.sqrt(rank) if adapters[0].scaling_by_root_of_rank else 1.0


def merged_factors(
    name: str, adapters: list[LoraAdapter], weights: list[float], merge_factors: MergeFactors, seed: int = 0
) -> LoraAdapter:
    """A merge of the A's with sign(w_i s_i) √|w_i s_i| and of the B's with √|w_i s_i| (s_i: an adapter's scaling).

    Raises UserError for unequal ranks, as PEFT does.
    """
    ranks = {rank_of(adapter) for adapter in adapters}
    exact = {"peft_linear": "linear", "peft_ties": "ties"}.get(name, "dare")
    if len(ranks) > 1:
        names = ", ".join(adapter.name for adapter in adapters)
        raise UserError(f"{name} merges factors, so all ranks must be equal; {names} have ranks {sorted(ranks)}: use {exact}")
    scaling = common_scaling(adapters, ranks.pop())

    def merge_module(parts: list[tuple[float, LoraFactors]], path: str) -> LoraFactors:
        if len({factors.rank for _, factors in parts}) > 1:
            raise UserError(f"{name} merges factors, so all ranks must be equal; those of {path} differ: use {exact}")
        strengths = [weight * factors.scaling for weight, factors in parts]
        roots = [math.sqrt(abs(strength)) for strength in strengths]
        signed = [math.copysign(root, strength) for root, strength in zip(roots, strengths, strict=True)]
        streams = {kind: [generator_for(seed, path, kind, number) for number in range(len(parts))] for kind in "AB"}
        A = merge_factors(signed, [factors.A.float() for _, factors in parts], streams["A"])
        B = merge_factors(roots, [factors.B.float() for _, factors in parts], streams["B"])
        return LoraFactors(A, B, scaling)

    return merged_by_module(name, adapters, weights, merge_module)


def weighted_sum(weights: list[float], tensors: list[torch.Tensor]) -> torch.Tensor:
    return sum(weight * tensor for weight, tensor in zip(weights, tensors, strict=True))


def disjoint_mean(weights: list[float], tensors: list[torch.Tensor]) -> torch.Tensor:
    """Σ w_i τ_i / n over the n tensors that have the sign of Σ τ_i, entry by entry; PEFT elects signs before it weighs."""
    signs = torch.where(sum(tensors) >= 0, 1.0, -1.0)
    agreeing = [tensor.sign() == signs for tensor in tensors]
    total = sum(weight * tensor * agrees for weight, tensor, agrees in zip(weights, tensors, agreeing, strict=True))
    return total / sum(agrees.float() for agrees in agreeing).clamp(min=1.0)
