"""Weights of the linear merge from a few examples: by search (LoraHub), or from each adapter's own loss (LM-Cocktail)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compositional.adapters.lora import LoraAdapter, with_learned_weights
from compositional.core.errors import UserError

if TYPE_CHECKING:
    from compositional.merging import MergeExamples

NUM_EXAMPLES = 5
FINDS_WEIGHTS = True


def lorahub(
    adapters: list[LoraAdapter],
    weights: list[float],
    examples: MergeExamples,
    *,
    evaluations: int = 40,
    bound: float = 1.5,
    l1: float = 0.05,
    seed: int = 0,
) -> LoraAdapter:
    """LoraHub: the weights of the linear merge that minimise the loss on a few examples, by gradient-free search.

    min over w of loss(W + Σ w_i ΔW_i) + l1 · mean |w_i|, with w_i in [-bound, bound], from w = 0, by nevergrad's NGOpt with a
    budget of `evaluations`. Source: arXiv 2307.13269 and its settings. It sums the A's and the B's separately, which adds cross
    terms B_i A_j that no adapter was trained for; this function sums the updates themselves.
    """
    import warnings

    import numpy
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nevergrad warns about optional packages
        import nevergrad
    from tqdm import tqdm

    from compositional.adapters.updates import AdapterUpdates

    if evaluations < 1 or bound <= 0 or l1 < 0 or not 0 <= seed < 2**32:
        raise UserError(
            "--lora_merge_options of lorahub: evaluations must be at least 1, bound above 0, l1 at least 0, "
            "seed at least 0 and below 2^32"
        )
    updates = AdapterUpdates(adapters, weights)
    bar = tqdm(total=evaluations, desc="lorahub: weights tried", delay=2)

    def cost(candidate: numpy.ndarray) -> float:
        updates.weights = torch.tensor(candidate, dtype=torch.float32)
        bar.update()
        return examples.loss(updates) + l1 * float(numpy.abs(candidate).mean())

    space = nevergrad.p.Array(init=[0.0] * len(adapters), lower=-bound, upper=bound)
    space.random_state.seed(seed)
    with bar, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        best = nevergrad.optimizers.NGOpt(space, budget=evaluations).minimize(cost)
    return with_learned_weights("lorahub", adapters, [float(weight) for weight in best.value])


def lm_cocktail(
    adapters: list[LoraAdapter], weights: list[float], examples: MergeExamples, *, temperature: float = 5.0
) -> LoraAdapter:
    """LM-Cocktail: the weights of the linear merge follow from each adapter's own loss on a few examples.

    w = softmax(-loss_i / temperature) with loss_i that of W + ΔW_i, and ΔW = Σ w_i ΔW_i. Source: arXiv 2311.13534, whose code
    uses temperature 5 and mixes complete models. Here, all mixed models share the base model.
    """
    import torch

    from compositional.adapters.updates import AdapterUpdates

    if temperature <= 0:
        raise UserError(f"--lora_merge_options temperature={temperature}: must be above 0")
    losses = torch.tensor([examples.loss(AdapterUpdates([adapter], [1.0])) for adapter in adapters])
    return with_learned_weights("lm_cocktail", adapters, torch.softmax(-losses / temperature, dim=0).tolist())
