"""DAM and ZipLoRA: a learned coefficient for each column of each update."""

from __future__ import annotations

from dataclasses import asdict, replace
from itertools import combinations
from typing import TYPE_CHECKING

from compositional.adapters.lora import LoraAdapter, LoraFactors, merged_by_module, stacked
from compositional.core.errors import UserError

if TYPE_CHECKING:
    import torch

    from compositional.adapters.updates import AdapterUpdates
    from compositional.merging import MergeExamples


def dam(
    adapters: list[LoraAdapter],
    weights: list[float],
    examples: MergeExamples,
    *,
    learning_rate: float = 1e-2,
    epochs: float = 1.0,
    cosine: float = 0.0,
) -> LoraAdapter:
    """DAM / ZipLoRA: each column of each adapter's update gets its own scale, learned on compositional examples.

    ΔW = Σ ΔW_i diag(m_i) with m_i (d_in) per module and adapter, initialised to the weights; A_i diag(m_i) keeps the rank. The
    loss is the cross-entropy of the targets, plus `cosine` times ZipLoRA's term, the mean over modules and pairs of adapters of
    |cos(m_i, m_j)|.
    Source: DAM, arXiv 2410.08371; ZipLoRA, arXiv 2311.13600. Both train on the outputs of the single models. A
    composed task has no such outputs, so this function trains on its targets [ours].
    """
    from compositional.adapters.updates import AdapterUpdates

    if learning_rate <= 0 or epochs <= 0 or cosine < 0:
        raise UserError("--lora_merge_options of dam: learning_rate and epochs must be above 0, cosine at least 0")
    updates = AdapterUpdates(adapters, weights, column_scales=True)
    penalty = (lambda: cosine * mean_cosine(updates)) if cosine else None
    report = examples.train(updates, learning_rate, epochs, penalty)
    scaled = []
    learned: dict[str, torch.Tensor] = {}
    for number, adapter in enumerate(adapters):
        scales = updates.scales_of(number)
        factors = {path: LoraFactors(one.A.float() * scales[path], one.B, one.scaling) for path, one in adapter.factors.items()}
        scaled.append(replace(adapter, factors=factors))
        learned |= {f"m{number}.{path}": scale for path, scale in scales.items()}
    merged = merged_by_module("dam", scaled, [1.0] * len(scaled), lambda parts, path: stacked(parts))
    return replace(merged, report=asdict(report), learned=learned)


def mean_cosine(updates: AdapterUpdates) -> torch.Tensor:
    """The mean of |cos(m_i, m_j)| over modules and pairs of adapters that both update the module; 0 without such pairs."""
    import torch
    from torch.nn.functional import cosine_similarity

    cosines = [
        cosine_similarity(one, other, dim=0).abs()
        for path in updates.corrected_paths
        for one, other in combinations(updates.column_scales(path), 2)
    ]
    return torch.stack(cosines).mean() if cosines else torch.zeros(())
