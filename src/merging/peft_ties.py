"""TIES as PEFT's `add_weighted_adapter(combination_type="ties")` computes it (PEFT 0.21): on the A's and on the B's apart.

Each factor is trimmed to its largest entries, a sign is elected per entry, and what agrees with it is added with the weights of
peft_linear and divided by its number. Use `ties` for TIES on the updates themselves.
"""

from __future__ import annotations

from src.adapters.lora import LoraAdapter


def merge(adapters: list[LoraAdapter], weights: list[float], *, density: float = 0.5) -> LoraAdapter:
    """Raises UserError for unequal ranks, as PEFT does. With rsLoRA the result is √rank stronger, as PEFT's is."""
    from src.arithmetic.peft import disjoint_mean, merged_factors
    from src.arithmetic.sparsity import trim

    return merged_factors(
        "peft_ties", adapters, weights, lambda w, factors, _: disjoint_mean(w, [trim(factor, density) for factor in factors])
    )
