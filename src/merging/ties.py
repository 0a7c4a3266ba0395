"""TIES on the updates themselves: trim each ΔW_i to its largest entries, elect a sign per entry, average what agrees with it.

ΔW = λ Σ_{i agrees} w_i ΔW_i' / Σ_{i agrees} |w_i| with ΔW_i' the trimmed update, the sign that of Σ w_i ΔW_i', and λ = Σ |w_i|. It
has full rank: it is truncated by SVD to `rank` (0: the sum of the adapters' ranks). Source: arXiv 2306.01708.
"""

from __future__ import annotations

from src.adapters.lora import LoraAdapter


def merge(adapters: list[LoraAdapter], weights: list[float], *, density: float = 0.5, rank: int = 0) -> LoraAdapter:
    from src.arithmetic.low_rank import merged_deltas
    from src.arithmetic.sparsity import agreeing_mean, trim

    def ties(weighted: list[tuple[float, object]], path: str) -> object:
        return agreeing_mean([weight for weight, _ in weighted], [trim(delta, density) for _, delta in weighted])

    return merged_deltas("ties", adapters, weights, ties, rank)
