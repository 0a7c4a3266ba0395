"""DARE as PEFT's `add_weighted_adapter(combination_type="dare_linear")` computes it (PEFT 0.21): on the A's and on the B's apart.

Entries of each factor are dropped at random, the others divided by the density; then as peft_linear. The random stream is our own:
seeded by module and adapter. Use `dare` for DARE on the updates themselves.
"""

from __future__ import annotations

from src.adapters.lora import LoraAdapter


def merge(adapters: list[LoraAdapter], weights: list[float], *, density: float = 0.5, seed: int = 0) -> LoraAdapter:
    """Raises UserError for unequal ranks, as PEFT does. With rsLoRA the result is √rank stronger, as PEFT's is."""
    from src.arithmetic.peft import merged_factors, weighted_sum
    from src.arithmetic.sparsity import drop_all

    return merged_factors(
        "peft_dare_linear",
        adapters,
        weights,
        lambda w, factors, streams: weighted_sum(w, drop_all(factors, density, streams)),
        seed,
    )
