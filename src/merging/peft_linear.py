"""Linear merge as PEFT's `add_weighted_adapter(combination_type="linear")` computes it (PEFT 0.21).

The factors are added apart, A = Σ sign(w_i s_i) √|w_i s_i| A_i and B = Σ √|w_i s_i| B_i (s_i: an adapter's scaling), so B A
holds cross terms B_i A_j that no adapter was trained for. Use `linear` for the sum of the updates themselves.
"""

from __future__ import annotations

import math

from src.adapters.lora import LoraAdapter, LoraFactors
from src.errors import UserError


def merge(adapters: list[LoraAdapter], weights: list[float]) -> LoraAdapter:
    """Raises UserError for unequal ranks, as PEFT does. With rsLoRA the result is √rank stronger, as PEFT's is."""
    paths = dict.fromkeys(path for adapter in adapters for path in adapter.factors)
    factors = {}
    for path in paths:
        parts = [(w, adapter.factors[path]) for adapter, w in zip(adapters, weights, strict=True) if path in adapter.factors]
        ranks = {part.rank for _, part in parts}
        if len(ranks) > 1:
            names = ", ".join(adapter.name for adapter in adapters)
            raise UserError(f"peft_linear adds factors, so all ranks must be equal; {names} have ranks {sorted(ranks)}: use linear")
        factors[path] = _sum_of_factors(parts, adapters[0].scaling_by_root_of_rank)
    return LoraAdapter("peft_linear", adapters[0].base_model, factors)


def _sum_of_factors(parts: list[tuple[float, LoraFactors]], scaling_by_root_of_rank: bool) -> LoraFactors:
    A = sum(math.copysign(math.sqrt(abs(w * part.scaling)), w * part.scaling) * part.A.float() for w, part in parts)
    B = sum(math.sqrt(abs(w * part.scaling)) * part.B.float() for w, part in parts)
    return LoraFactors(A, B, math.sqrt(parts[0][1].rank) if scaling_by_root_of_rank else 1.0)
