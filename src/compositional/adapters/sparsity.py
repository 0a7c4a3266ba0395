"""Sparsification of updates and election of signs: the building blocks of TIES and DARE."""

from __future__ import annotations

import hashlib

import torch

from compositional.core.errors import UserError


def check_density(density: float) -> None:
    """Raise UserError for an invalid share of entries to keep."""
    if not 0 < density <= 1:
        raise UserError(f"--lora_merge_options density={density}: must be above 0 and at most 1")


def trim(tensor: torch.Tensor, density: float) -> torch.Tensor:
    """The ⌊density · n⌋ entries of largest magnitude, the others zero (TIES, arXiv 2306.01708, step 1)."""
    check_density(density)
    if density == 1:
        return tensor
    kept, magnitudes = int(density * tensor.numel()), tensor.abs().flatten()
    if kept == 0:
        return torch.zeros_like(tensor)
    # Several times faster than topk. Only ties at the threshold are left to topk, which chooses among them as in PEFT.
    mask = magnitudes >= magnitudes.kthvalue(tensor.numel() - kept + 1).values
    if mask.sum() > kept:
        mask = torch.zeros_like(mask)
        mask[torch.topk(magnitudes, kept).indices] = True
    return tensor * mask.view(tensor.shape)


def drop_and_rescale(tensor: torch.Tensor, density: float, generator: torch.Generator) -> torch.Tensor:
    """Keep each entry with probability `density` and divide it by that: the expectation is unchanged (DARE, arXiv 2311.03099)."""
    check_density(density)
    if density == 1:
        return tensor
    return tensor * (torch.rand(tensor.shape, generator=generator) < density) / density


def drop_all(tensors: list[torch.Tensor], density: float, generators: list[torch.Generator]) -> list[torch.Tensor]:
    """`drop_and_rescale` of each tensor, with its own random generator."""
    return [drop_and_rescale(tensor, density, generator) for tensor, generator in zip(tensors, generators, strict=True)]


def elected_signs(tensors: list[torch.Tensor]) -> torch.Tensor:
    """The sign of the sum, entry by entry, +1 for a sum of zero: the one with the larger total magnitude (TIES, step 2)."""
    return torch.where(sum(tensors) >= 0, 1.0, -1.0)


def agreeing_mean(weights: list[float], tensors: list[torch.Tensor]) -> torch.Tensor:
    """λ Σ w_i τ_i / Σ |w_i| over the tensors whose w_i τ_i has the elected sign, entry by entry, λ = Σ |w_i| (TIES, step 3)."""
    weighted = [weight * tensor for weight, tensor in zip(weights, tensors, strict=True)]
    signs = elected_signs(weighted)
    agreeing = [tensor.sign() == signs for tensor in weighted]
    total = sum(tensor * agrees for tensor, agrees in zip(weighted, agreeing, strict=True))
    share = sum(abs(weight) * agrees for weight, agrees in zip(weights, agreeing, strict=True))
    return sum(map(abs, weights)) * total / torch.where(share > 0, share, 1.0)


def generator_for(*parts: object) -> torch.Generator:
    """A random generator seeded by `parts`, such as a seed, a module and an adapter, and independent of all others."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
