"""Linear merge as PEFT's `add_weighted_adapter(combination_type="linear")` computes it (PEFT 0.21).

The factors are added apart, A = Σ sign(w_i s_i) √|w_i s_i| A_i and B = Σ √|w_i s_i| B_i (s_i: an adapter's scaling), so B A
holds cross terms B_i A_j that no adapter was trained for. Use `linear` for the sum of the updates themselves.
"""

from __future__ import annotations

from src.adapters.lora import LoraAdapter


def merge(adapters: list[LoraAdapter], weights: list[float]) -> LoraAdapter:
    """Raises UserError for unequal ranks, as PEFT does. With rsLoRA the result is √rank stronger, as PEFT's is."""
    from src.arithmetic.peft import merged_factors, weighted_sum

    return merged_factors("peft_linear", adapters, weights, lambda weights, factors, _: weighted_sum(weights, factors))
