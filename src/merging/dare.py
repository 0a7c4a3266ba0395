"""DARE on the updates themselves: ΔW = Σ w_i M_i ∘ ΔW_i / density, where M_i keeps each entry with probability `density`.

The result has full rank: it is truncated by SVD to `rank` (0: the sum of the adapters' ranks). Source: arXiv 2311.03099, with
linear weights.
"""

from __future__ import annotations

from src.adapters.lora import LoraAdapter


def merge(adapters: list[LoraAdapter], weights: list[float], *, density: float = 0.5, rank: int = 0, seed: int = 0) -> LoraAdapter:
    from src.arithmetic.low_rank import merged_deltas
    from src.arithmetic.sparsity import drop_and_rescale, generator_for

    def dare(weighted: list[tuple[float, object]], path: str) -> object:
        return sum(
            weight * drop_and_rescale(delta, density, generator_for(seed, path, number))
            for number, (weight, delta) in enumerate(weighted)
        )

    return merged_deltas("dare", adapters, weights, dare, rank)
