"""Sparsification of updates and election of signs: the building blocks of TIES and DARE."""

from __future__ import annotations

import hashlib

import torch
from torch.nn import functional

from compositional.core.errors import UserError

# From so many entries on, a threshold is searched for by a sample of so many. Sums are made in parts that fit in a cache.
_MANY, _SAMPLE, _PART = 1_000_000, 100_000, 65_536


def check_density(density: float) -> None:
    """Raise UserError for an invalid share of entries to keep."""
    if not 0 < density <= 1:
        raise UserError(f"--lora_merge_options density={density}: must be above 0 and at most 1")


def trim(tensor: torch.Tensor, density: float) -> torch.Tensor:
    """The ⌊density · n⌋ entries of largest magnitude, the others zero (TIES, arXiv 2306.01708, step 1)."""
    check_density(density)
    if density == 1:
        return tensor
    kept = int(density * tensor.numel())
    if kept == 0:
        return torch.zeros_like(tensor)
    threshold, ties = _threshold(tensor.flatten(), kept)
    if ties and tensor.numel() < _MANY:  # the choice among equal entries is topk's, as in PEFT
        mask = torch.zeros(tensor.numel(), dtype=torch.bool)
        mask[torch.topk(tensor.abs().flatten(), kept).indices] = True
        return tensor * mask.view(tensor.shape)
    below = torch.nextafter(threshold, torch.zeros_like(threshold)).item()
    trimmed = functional.hardshrink(tensor, below)  # zero where |x| <= below; a mask would be many times slower
    for part in reversed(trimmed.view(-1).split(_MANY)):
        if ties:
            equal = (part.abs() == threshold).nonzero().flatten()[-ties:]
            part[equal] = 0.0
            ties -= len(equal)
    return trimmed


def _threshold(values: torch.Tensor, k: int) -> tuple[torch.Tensor, int]:
    """The k-th largest magnitude, exactly, and how many more than k entries are at least as large.

    Of many values, a sample narrows the search to one per cent of them.
    """
    if values.numel() < _MANY:
        between, above = values.abs(), 0
    else:
        sample = values[:: values.numel() // _SAMPLE].abs().sort().values
        place, margin = round((1 - k / values.numel()) * len(sample)), len(sample) // 200
        low, high = sample[max(0, place - margin)].item(), sample[min(len(sample) - 1, place + margin)].item()
        between, above = _between(values, low, high)
        if not 1 <= k - above <= between.numel():  # the sample was not like the rest
            between, above = values.abs(), 0
    rank = k - above
    threshold = between.kthvalue(between.numel() - rank + 1).values
    return threshold, int(torch.count_nonzero(between >= threshold)) - rank


def _between(values: torch.Tensor, low: float, high: float) -> tuple[torch.Tensor, int]:
    """The magnitudes from `low` to `high`, and the number of those above `high`."""
    near, above, magnitudes = [], 0, torch.empty(_PART, dtype=values.dtype)
    for part in values.split(_PART):
        magnitude = torch.abs(part, out=magnitudes[: len(part)])
        larger = magnitude > high
        above += int(larger.sum())
        near.append(magnitude[(magnitude >= low) & ~larger])
    return torch.cat(near), above


def drop_and_rescale(tensor: torch.Tensor, density: float, generator: torch.Generator) -> torch.Tensor:
    """Keep each entry with probability `density` and divide it by that: the expectation is unchanged (DARE, arXiv 2311.03099)."""
    check_density(density)
    if density == 1:
        return tensor
    return torch.rand(tensor.shape, generator=generator).lt_(density).div_(density).mul_(tensor)


def drop_all(tensors: list[torch.Tensor], density: float, generators: list[torch.Generator]) -> list[torch.Tensor]:
    """`drop_and_rescale` of each tensor, with its own random generator."""
    return [drop_and_rescale(tensor, density, generator) for tensor, generator in zip(tensors, generators, strict=True)]


def agreeing_mean(weights: list[float], tensors: list[torch.Tensor]) -> torch.Tensor:
    """λ Σ w_i τ_i / Σ |w_i| over the tensors whose w_i τ_i has the elected sign, entry by entry, with λ = Σ |w_i|.

    The elected sign is that of Σ w_i τ_i, which has the larger total magnitude (TIES, arXiv 2306.01708, steps 2 and 3).
    """
    result, total_weight = torch.empty_like(tensors[0]), sum(map(abs, weights))
    # In parts that fit in a processor's cache, in place, and in float arithmetic: masks of booleans are several times slower.
    for target, *parts in zip(result.view(-1).split(_PART), *(tensor.reshape(-1).split(_PART) for tensor in tensors), strict=True):
        terms = [weight * part for weight, part in zip(weights, parts, strict=True)]
        sign = sum(terms).ge_(0).mul_(2).sub_(1)  # a sum of zero counts as positive
        agreeing = [term.mul_(sign).clamp_(min=0) for term in terms]
        share = sum(term.sign().mul_(abs(weight)) for weight, term in zip(weights, agreeing, strict=True))
        mean = sum(agreeing).mul_(sign).mul_(total_weight)
        torch.div(mean, share.masked_fill_(share == 0, 1.0), out=target)
    return result


def generator_for(*parts: object) -> torch.Generator:
    """A random generator seeded by `parts`, such as a seed, a module and an adapter, and independent of all others."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
