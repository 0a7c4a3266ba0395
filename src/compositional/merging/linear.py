"""Exact weighted sums of updates: factors are stacked, so the rank is the sum of the ranks."""

from __future__ import annotations

from compositional.adapters.lora import LoraAdapter, merged_by_module, stacked


def linear(adapters: list[LoraAdapter], weights: list[float]) -> LoraAdapter:
    """Linear merge, exact: ΔW = Σ w_i ΔW_i. The factors are stacked, so the rank is the sum of the ranks.

    Source: task arithmetic, arXiv 2212.04089. A module that only some adapters update gets the sum over these adapters.
    """
    return merged_by_module("linear", adapters, weights, lambda parts, path: stacked(parts))


def concat(adapters: list[LoraAdapter], weights: list[float]) -> LoraAdapter:
    """Concatenation, exact: B = [w_1 s_1 B_1, w_2 s_2 B_2, ...], A = [A_1; A_2; ...] (s_i: an adapter's scaling).

    So ΔW = Σ w_i ΔW_i, which is `linear`'s update: both are exact. Source: the paper's row; CAT of LoRA Soups, arXiv 2410.13025,
    with given weights.
    """
    return merged_by_module("concat", adapters, weights, lambda parts, path: stacked(parts))
