"""Merges by their formula, on full matrices."""

from __future__ import annotations

import torch

Deltas = list[torch.Tensor]


def slerp_by_hand(deltas: Deltas, weights: list[float]) -> torch.Tensor:
    one, two = (delta.double() for delta in deltas)
    angle = torch.arccos((one * two).sum() / (one.norm() * two.norm()))
    t = weights[1] / sum(weights)
    return ((torch.sin((1 - t) * angle) * one + torch.sin(t * angle) * two) / torch.sin(angle)).float()


def svc_by_hand(deltas: Deltas, weights: list[float], alpha: float = 1.0) -> torch.Tensor:
    merged = sum(weight * delta for weight, delta in zip(weights, deltas, strict=True)).double()
    U, S, Vh = torch.linalg.svd(merged, full_matrices=False)
    for r in range(len(S)):
        rows = [U[:, r] @ delta.double() for delta in deltas]
        ratios = [((U[:, r] @ merged) @ row / (row @ row)).item() for row in rows]
        if all(ratio > 0 for ratio in ratios):
            S[r] /= max(sum(ratios) / len(ratios), alpha)
    return (U @ torch.diag(S) @ Vh).float()


def sum_by_hand(deltas: Deltas, weights: list[float]) -> torch.Tensor:
    return sum(weight * delta for weight, delta in zip(weights, deltas, strict=True))
