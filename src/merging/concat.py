"""Concatenation, exact: B = [w_1 s_1 B_1, w_2 s_2 B_2, ...], A = [A_1; A_2; ...] (s_i: an adapter's scaling), so ΔW = Σ w_i ΔW_i.

Source: the paper's row; CAT of LoRA Soups, arXiv 2410.13025, with given weights. The update is `linear`'s: both are exact.
"""

from __future__ import annotations

from src.adapters.lora import LoraAdapter, merged_by_module, stacked


def merge(adapters: list[LoraAdapter], weights: list[float]) -> LoraAdapter:
    return merged_by_module("concat", adapters, weights, lambda parts, path: stacked(parts))
