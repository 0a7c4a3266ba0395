"""Concatenation as PEFT's `add_weighted_adapter(combination_type="cat")` computes it (PEFT 0.21).

A = [w_1 s_1 A_1; w_2 s_2 A_2; ...], B = [B_1, B_2, ...] (s_i: an adapter's scaling). The update is exact but for rsLoRA, where
PEFT's result is √rank stronger.
"""

from __future__ import annotations

from src.adapters.lora import LoraAdapter, LoraFactors, merged_by_module


def merge(adapters: list[LoraAdapter], weights: list[float]) -> LoraAdapter:
    import torch

    from src.arithmetic.peft import common_scaling, rank_of

    scaling = common_scaling(adapters, sum(map(rank_of, adapters)))

    def side_by_side(parts: list[tuple[float, LoraFactors]], path: str) -> LoraFactors:
        A = torch.cat([weight * factors.scaling * factors.A.float() for weight, factors in parts], dim=0)
        return LoraFactors(A, torch.cat([factors.B.float() for _, factors in parts], dim=1), scaling)

    return merged_by_module("peft_cat", adapters, weights, side_by_side)
