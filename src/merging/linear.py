"""Linear merge, exact: ΔW = Σ w_i ΔW_i. The factors are stacked, so the rank is the sum of the ranks."""

from __future__ import annotations

from src.adapters.lora import LoraAdapter, stacked


def merge(adapters: list[LoraAdapter], weights: list[float]) -> LoraAdapter:
    """A module that only some adapters update gets the sum over those."""
    paths = dict.fromkeys(path for adapter in adapters for path in adapter.factors)
    factors = {
        path: stacked([(w, adapter.factors[path]) for adapter, w in zip(adapters, weights, strict=True) if path in adapter.factors])
        for path in paths
    }
    return LoraAdapter("linear", adapters[0].base_model, factors)
