"""DAM and ZipLoRA: a learned coefficient for each column of each update."""

from __future__ import annotations

from dataclasses import asdict, replace
from itertools import combinations
from typing import TYPE_CHECKING, Any

from compositional.adapters.lora import LoraAdapter, LoraFactors, merged_by_module, stacked
from compositional.core.errors import UserError

if TYPE_CHECKING:
    import torch

    from compositional.adapters.updates import AdapterUpdates
    from compositional.merging import MergeExamples, SingleTaskExamples


def dam(
    adapters: list[LoraAdapter],
    weights: list[float],
    single_task_examples: SingleTaskExamples,
    *,
    learning_rate: float = 1e-2,
    epochs: float = 1.0,
    temperature: float = 2.0,
    cosine: float = 0.01,
    l1: float = 1e-6,
    l2: float = 1e-6,
) -> LoraAdapter:
    """DAM / ZipLoRA: each column of each adapter's update gets its own scale, so that the merge answers each adapter's own task as
    that adapter does. No composed target is seen.

    ΔW = Σ ΔW_i diag(m_i) with m_i (d_in) per module and adapter, initialised to the weights; A_i diag(m_i) keeps the rank. The
    loss is T² KL(p_i ‖ p) at `temperature` T, the mean over target tokens of all adapters' examples, plus, summed over modules,
    `cosine` times the mean over pairs of adapters of cos(m_i, m_j), `l1` times Σ ‖m_i‖₁ and `l2` times Σ ‖m_i‖₂.
    Source: DAM, arXiv 2410.08371, with the temperature and the factors of its published code (arcee-ai/DAM); ZipLoRA, arXiv
    2311.13600. Deviations: only linear modules that an adapter updates have scales, and the KL is over target tokens [ours].
    """
    if min(learning_rate, epochs, temperature) <= 0 or min(cosine, l1, l2) < 0:
        raise UserError(
            "--lora_merge_options of dam: learning_rate, epochs and temperature must be above 0, cosine, l1 and l2 at least 0"
        )
    updates = _column_scaled(adapters, weights)

    def penalty() -> torch.Tensor:
        of_columns = [scale for path in updates.corrected_paths for scale in updates.column_scales(path)]
        norms = l1 * sum(scale.norm(1) for scale in of_columns) + l2 * sum(scale.norm(2) for scale in of_columns)
        return norms + cosine * sum(of_pairs.mean() for of_pairs in _cosines(updates))

    report = single_task_examples.imitate(adapters, updates, learning_rate, epochs, temperature, penalty)
    return _scaled("dam", adapters, updates, asdict(report))


def dam_composed(
    adapters: list[LoraAdapter],
    weights: list[float],
    examples: MergeExamples,
    *,
    learning_rate: float = 1e-2,
    epochs: float = 1.0,
    cosine: float = 0.0,
) -> LoraAdapter:
    """DAM on composed targets: each column of each adapter's update gets its own scale, learned on compositional examples.

    ΔW = Σ ΔW_i diag(m_i) as in `dam`. The loss is the cross-entropy of the composed targets, plus `cosine` times the mean over
    modules and pairs of adapters of |cos(m_i, m_j)|, ZipLoRA's term.
    Source: ours; the form is that of DAM, arXiv 2410.08371, and ZipLoRA, arXiv 2311.13600.
    """
    if learning_rate <= 0 or epochs <= 0 or cosine < 0:
        raise UserError("--lora_merge_options of dam_composed: learning_rate and epochs must be above 0, cosine at least 0")
    updates = _column_scaled(adapters, weights)
    penalty = (lambda: cosine * mean_cosine(updates)) if cosine else None
    report = examples.train(updates, learning_rate, epochs, penalty)
    return _scaled("dam_composed", adapters, updates, asdict(report))


def _column_scaled(adapters: list[LoraAdapter], weights: list[float]) -> AdapterUpdates:
    from compositional.adapters.updates import AdapterUpdates

    return AdapterUpdates(adapters, weights, column_scales=True)


def _scaled(name: str, adapters: list[LoraAdapter], updates: AdapterUpdates, report: dict[str, Any]) -> LoraAdapter:
    """The exact sum of the updates with their learned scales, which are stored with it."""
    scaled = []
    learned: dict[str, torch.Tensor] = {}
    for number, adapter in enumerate(adapters):
        scales = updates.scales_of(number)
        factors = {path: LoraFactors(one.A.float() * scales[path], one.B, one.scaling) for path, one in adapter.factors.items()}
        scaled.append(replace(adapter, factors=factors))
        learned |= {f"m{number}.{path}": scale for path, scale in scales.items()}
    merged = merged_by_module(name, scaled, [1.0] * len(scaled), lambda parts, path: stacked(parts))
    return replace(merged, report=report, learned=learned)


def mean_cosine(updates: AdapterUpdates) -> torch.Tensor:
    """The mean of |cos(m_i, m_j)| over modules and pairs of adapters that both update the module; 0 without such pairs."""
    import torch

    found = _cosines(updates)
    return torch.cat(found).abs().mean() if found else torch.zeros(())


def _cosines(updates: AdapterUpdates) -> list[torch.Tensor]:
    """For each module that several adapters update, cos(m_i, m_j) of their pairs (pairs)."""
    import torch
    from torch.nn.functional import cosine_similarity

    return [
        torch.stack([cosine_similarity(one, other, dim=0) for one, other in combinations(updates.column_scales(path), 2)])
        for path in updates.corrected_paths
        if len(updates.column_scales(path)) > 1
    ]
