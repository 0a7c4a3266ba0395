"""Linear merge, exact: ΔW = Σ w_i ΔW_i. The factors are stacked, so the rank is the sum of the ranks.

Source: task arithmetic, arXiv 2212.04089. A module that only some adapters update gets the sum over those.
"""

from __future__ import annotations

from src.adapters.lora import LoraAdapter, merged_by_module, stacked


def merge(adapters: list[LoraAdapter], weights: list[float]) -> LoraAdapter:
    return merged_by_module("linear", adapters, weights, lambda parts, path: stacked(parts))
