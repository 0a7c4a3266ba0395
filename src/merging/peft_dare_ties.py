"""DARE and TIES as PEFT's `add_weighted_adapter(combination_type="dare_ties")` computes them (PEFT 0.21), on A's and B's apart.

Entries of each factor are dropped at random, the others divided by the density; then signs are elected and what agrees is averaged
as in peft_ties. The random stream is our own: seeded by module and adapter.
"""

from __future__ import annotations

from src.adapters.lora import LoraAdapter


def merge(adapters: list[LoraAdapter], weights: list[float], *, density: float = 0.5, seed: int = 0) -> LoraAdapter:
    """Raises UserError for unequal ranks, as PEFT does. With rsLoRA the result is √rank stronger, as PEFT's is."""
    from src.arithmetic.peft import disjoint_mean, merged_factors
    from src.arithmetic.sparsity import drop_all

    return merged_factors(
        "peft_dare_ties", adapters, weights, lambda w, factors, streams: disjoint_mean(w, drop_all(factors, density, streams)), seed
    )
