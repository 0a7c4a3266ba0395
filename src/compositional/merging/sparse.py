"""TIES and DARE on the updates themselves: entries of each ΔW_i are set to zero before the updates are summed.

The results have full rank. They are truncated by SVD to `rank` (0: the sum of the adapters' ranks), and the error is reported.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from compositional.adapters.lora import LoraAdapter

if TYPE_CHECKING:
    import torch


def ties(adapters: list[LoraAdapter], weights: list[float], *, density: float = 0.5, rank: int = 0) -> LoraAdapter:
    """TIES on the updates themselves: trim each ΔW_i to its largest entries, elect a sign per entry, average agreeing entries.

    ΔW = λ Σ_{i agrees} w_i ΔW_i' / Σ_{i agrees} |w_i| with ΔW_i' the trimmed update, the sign that of Σ w_i ΔW_i', and
    λ = Σ |w_i|. It has full rank: it is truncated by SVD to `rank` (0: the sum of the adapters' ranks). Source: arXiv 2306.01708.
    """
    from compositional.adapters.low_rank import merged_deltas
    from compositional.adapters.sparsity import agreeing_mean, trim

    def merge_deltas(weighted: list[tuple[float, torch.Tensor]], path: str) -> torch.Tensor:
        return agreeing_mean([weight for weight, _ in weighted], [trim(delta, density) for _, delta in weighted])

    return merged_deltas("ties", adapters, weights, merge_deltas, rank)


def dare(adapters: list[LoraAdapter], weights: list[float], *, density: float = 0.5, rank: int = 0, seed: int = 0) -> LoraAdapter:
    """DARE on the updates themselves: ΔW = Σ w_i M_i ∘ ΔW_i / density, where M_i keeps each entry with probability `density`.

    The result has full rank: it is truncated by SVD to `rank` (0: the sum of the adapters' ranks). Source: arXiv 2311.03099, with
    linear weights.
    """
    from compositional.adapters import sparsity
    from compositional.adapters.low_rank import merged_deltas

    def merge_deltas(weighted: list[tuple[float, torch.Tensor]], path: str) -> torch.Tensor:
        return sum(
            weight * sparsity.drop_and_rescale(delta, density, sparsity.generator_for(seed, path, number))
            for number, (weight, delta) in enumerate(weighted)
        )

    return merged_deltas("dare", adapters, weights, merge_deltas, rank)
