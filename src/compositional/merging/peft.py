"""PEFT 0.21's `add_weighted_adapter`, reimplemented: it merges the A's and the B's separately.

The factors of ΔW_i = s_i B_i A_i (s_i: an adapter's scaling) are merged with roots of the weights, so B A contains cross terms
B_i A_j that no adapter was trained for; only `peft_cat` and `peft_svd` are sums of updates. With rsLoRA, a merge is too strong by
√rank, as in PEFT.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from compositional.adapters.lora import LoraAdapter, LoraFactors, merged_by_module
from compositional.core.errors import UserError

if TYPE_CHECKING:
    import torch

    # Arguments: weights, tensors (the A's or the B's of one module), and a random generator per tensor.
    MergeFactors = Callable[[list[float], list[torch.Tensor], list[torch.Generator]], torch.Tensor]


def peft_linear(adapters: list[LoraAdapter], weights: list[float]) -> LoraAdapter:
    """Linear merge as PEFT's `add_weighted_adapter(combination_type="linear")` computes it (PEFT 0.21).

    The factors are summed separately, A = Σ sign(w_i s_i) √|w_i s_i| A_i and B = Σ √|w_i s_i| B_i (s_i: an adapter's scaling), so
    B A contains cross terms B_i A_j that no adapter was trained for. Use `linear` for the sum of the updates themselves.

    Raises UserError for unequal ranks, as PEFT does. With rsLoRA the result is √rank stronger, as PEFT's is.
    """
    return _merged_factors("peft_linear", adapters, weights, lambda weights, factors, _: _weighted_sum(weights, factors))


def peft_cat(adapters: list[LoraAdapter], weights: list[float]) -> LoraAdapter:
    """Concatenation as PEFT's `add_weighted_adapter(combination_type="cat")` computes it (PEFT 0.21).

    A = [w_1 s_1 A_1; w_2 s_2 A_2; ...], B = [B_1, B_2, ...] (s_i: an adapter's scaling). The update is exact except with rsLoRA,
    where PEFT's result is √rank stronger.
    """
    import torch

    scaling = _common_scaling(adapters, sum(map(_rank_of, adapters)))

    def side_by_side(parts: list[tuple[float, LoraFactors]], path: str) -> LoraFactors:
        A = torch.cat([weight * factors.scaling * factors.A.float() for weight, factors in parts], dim=0)
        return LoraFactors(A, torch.cat([factors.B.float() for _, factors in parts], dim=1), scaling)

    return merged_by_module("peft_cat", adapters, weights, side_by_side)


def peft_svd(adapters: list[LoraAdapter], weights: list[float], *, rank: int = 0) -> LoraAdapter:
    """Sum of the updates, truncated, as PEFT's `add_weighted_adapter(combination_type="svd")` computes it (PEFT 0.21).

    ΔW = Σ w_i ΔW_i is truncated to the highest of the adapters' ranks. With rsLoRA the result is √rank stronger, as PEFT's is.
    """
    from compositional.adapters.low_rank import truncated_by_module, truncated_sum

    rank = rank or max(map(_rank_of, adapters))
    merged = truncated_by_module("peft_svd", adapters, weights, lambda parts, path: truncated_sum(parts, rank), rank)
    scaling = _common_scaling(adapters, rank)
    return replace(merged, factors={path: replace(factors, scaling=scaling) for path, factors in merged.factors.items()})


def peft_ties(adapters: list[LoraAdapter], weights: list[float], *, density: float = 0.5) -> LoraAdapter:
    """TIES as PEFT's `add_weighted_adapter(combination_type="ties")` computes it (PEFT 0.21): on the A's and B's separately.

    Each factor is trimmed to its largest entries, and a sign is elected per entry. The entries that agree with it are summed with
    the weights of peft_linear and divided by their number. Use `ties` for TIES on the updates themselves.

    Raises UserError for unequal ranks, as PEFT does. With rsLoRA the result is √rank stronger, as PEFT's is.
    """
    from compositional.adapters.sparsity import trim

    return _merged_factors(
        "peft_ties", adapters, weights, lambda w, factors, _: _disjoint_mean(w, [trim(factor, density) for factor in factors])
    )


def peft_dare_linear(adapters: list[LoraAdapter], weights: list[float], *, density: float = 0.5, seed: int = 0) -> LoraAdapter:
    """DARE as PEFT's `add_weighted_adapter(combination_type="dare_linear")` computes it (PEFT 0.21): on A's and B's separately.

    Entries of each factor are dropped at random and the others divided by the density; then as in peft_linear. Unlike PEFT's, the
    random numbers are seeded by module and adapter. Use `dare` for DARE on the updates themselves.

    Raises UserError for unequal ranks, as PEFT does. With rsLoRA the result is √rank stronger, as PEFT's is.
    """
    from compositional.adapters.sparsity import drop_all

    return _merged_factors(
        "peft_dare_linear",
        adapters,
        weights,
        lambda w, factors, streams: _weighted_sum(w, drop_all(factors, density, streams)),
        seed,
    )


def peft_dare_ties(adapters: list[LoraAdapter], weights: list[float], *, density: float = 0.5, seed: int = 0) -> LoraAdapter:
    """DARE and TIES as PEFT's `add_weighted_adapter(combination_type="dare_ties")` computes them (PEFT 0.21): on A's, then on B's.

    Entries of each factor are dropped at random and the others divided by the density; then signs are elected and agreeing entries
    averaged as in peft_ties. Unlike PEFT's, the random numbers are seeded by module and adapter.

    Raises UserError for unequal ranks, as PEFT does. With rsLoRA the result is √rank stronger, as PEFT's is.
    """
    from compositional.adapters.sparsity import drop_all

    return _merged_factors(
        "peft_dare_ties",
        adapters,
        weights,
        lambda w, factors, streams: _disjoint_mean(w, drop_all(factors, density, streams)),
        seed,
    )


def _rank_of(adapter: LoraAdapter) -> int:
    return max(factors.rank for factors in adapter.factors.values())


def _common_scaling(adapters: list[LoraAdapter], rank: int) -> float:
    """PEFT gives the merge alpha = rank and the settings of the first adapter, so it is √rank stronger with rsLoRA."""
    return math.sqrt(rank) if adapters[0].scaling_by_root_of_rank else 1.0


def _merged_factors(
    name: str, adapters: list[LoraAdapter], weights: list[float], merge_factors: MergeFactors, seed: int = 0
) -> LoraAdapter:
    """Merge the A's with sign(w_i s_i) √|w_i s_i| and the B's with √|w_i s_i| (s_i: an adapter's scaling).

    Raises UserError for unequal ranks, as PEFT does.
    """
    from compositional.adapters.sparsity import generator_for

    ranks = {_rank_of(adapter) for adapter in adapters}
    exact = {"peft_linear": "linear", "peft_ties": "ties"}.get(name, "dare")
    if len(ranks) > 1:
        names = ", ".join(adapter.name for adapter in adapters)
        raise UserError(f"{name} merges factors, so all ranks must be equal; {names} have ranks {sorted(ranks)}: use {exact}")
    scaling = _common_scaling(adapters, ranks.pop())

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


def _weighted_sum(weights: list[float], tensors: list[torch.Tensor]) -> torch.Tensor:
    return sum(weight * tensor for weight, tensor in zip(weights, tensors, strict=True))


def _disjoint_mean(weights: list[float], tensors: list[torch.Tensor]) -> torch.Tensor:
    """Σ w_i τ_i / n over the n tensors that have the sign of Σ τ_i, entry by entry; PEFT elects signs before it weighs."""
    import torch

    signs = torch.where(sum(tensors) >= 0, 1.0, -1.0)
    agreeing = [tensor.sign() == signs for tensor in tensors]
    total = sum(weight * tensor * agrees for weight, tensor, agrees in zip(weights, tensors, agreeing, strict=True))
    return total / sum(agrees.float() for agrees in agreeing).clamp(min=1.0)
