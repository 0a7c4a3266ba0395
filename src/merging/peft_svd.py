"""Sum of the updates, truncated, as PEFT's `add_weighted_adapter(combination_type="svd")` computes it (PEFT 0.21).

ΔW = Σ w_i ΔW_i is truncated to the highest of the adapters' ranks. With rsLoRA the result is √rank stronger, as PEFT's is.
"""

from __future__ import annotations

from dataclasses import replace

from src.adapters.lora import LoraAdapter


def merge(adapters: list[LoraAdapter], weights: list[float], *, rank: int = 0) -> LoraAdapter:
    from src.arithmetic.low_rank import merged_deltas
    from src.arithmetic.peft import common_scaling, rank_of

    rank = rank or max(map(rank_of, adapters))
    merged = merged_deltas(
        "peft_svd", adapters, weights, lambda weighted, path: sum(weight * delta for weight, delta in weighted), rank
    )
    scaling = common_scaling(adapters, rank)
    return replace(merged, factors={path: replace(factors, scaling=scaling) for path, factors in merged.factors.items()})
