"""Updates as products of factors: inner products without the full matrix, and the best low-rank approximation of a matrix."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch

from compositional.adapters.lora import LoraAdapter, LoraFactors, absent_as_zero, merged_by_module, stacked
from compositional.core.errors import UserError

# Additional rank, and passes over the matrix: the error stays within 1 % of the exact decomposition's, for flat and for decaying
# singular values. Sums of squares are made in parts.
_OVERSAMPLING, _PASSES = 32, 2
# What is smaller than the largest singular value by this factor is rounding: factors are stored in float32 at most.
ROUNDING = 1e-9
# Below this share of ‖ΔW‖², a difference of two sums of squares is all rounding, and the error is computed from the matrices.
_DIFFERENCE_IS_EXACT = 1e-6
_PART = 65_536


def inner_product(one: LoraFactors, other: LoraFactors) -> float:
    """⟨ΔW₁, ΔW₂⟩ = Σ (B₁ᵀ B₂) ∘ (A₁ A₂ᵀ), times the scalings."""
    gram = (one.B.double().T @ other.B.double()) * (one.A.double() @ other.A.double().T)
    return one.scaling * other.scaling * gram.sum().item()


def truncated(delta: torch.Tensor, rank: int) -> tuple[LoraFactors, float, float]:
    """The best approximation B A of ΔW (d_out × d_in) of at most `rank`, by SVD; ‖ΔW - B A‖ and ‖ΔW‖ (Frobenius).

    Large matrices are decomposed by subspace iteration with a fixed seed. The error is that of the result, not an estimate:
    ‖ΔW - B A‖² = ‖ΔW‖² - Σ S_r², since B A is a projection of ΔW.
    """
    rank = min(rank, *delta.shape)
    if min(delta.shape) <= 4 * (rank + _OVERSAMPLING):
        U, S, Vh = torch.linalg.svd(delta, full_matrices=False)
    else:
        U, S, Vh = _randomized_svd(delta, rank + _OVERSAMPLING)
    factors = LoraFactors(Vh[:rank], U[:, :rank] * S[:rank], scaling=1.0)
    norm = frobenius_norm(delta)
    lost = norm**2 - S[:rank].double().square().sum().item()
    if lost > _DIFFERENCE_IS_EXACT * norm**2:
        return factors, math.sqrt(lost), norm
    return factors, frobenius_norm(delta - factors.delta()), norm


def truncated_sum(parts: list[tuple[float, LoraFactors]], rank: int) -> tuple[LoraFactors, float, float]:
    """The best approximation of ΔW = Σ w_i ΔW_i of at most `rank`, from the factors alone; its error, and ‖ΔW‖ (Frobenius).

    The sum has at most the sum of the ranks, so two small QR decompositions give its exact SVD.
    """
    U, S, Vh = svd_of_product(stacked(parts))
    rank = min(rank, len(S))
    factors = LoraFactors(Vh[:rank].float(), (U[:, :rank] * S[:rank]).float(), scaling=1.0)
    return factors, S[rank:].square().sum().sqrt().item(), S.square().sum().sqrt().item()


def frobenius_norm(matrix: torch.Tensor) -> float:
    """‖ΔW‖. Parts are summed in float64: float32 loses a thousandth over millions of entries."""
    return math.sqrt(sum(torch.linalg.vector_norm(part).item() ** 2 for part in matrix.flatten().split(_PART)))


def svd_of_product(factors: LoraFactors) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """U (d_out × r), S (r) and Vh (r × d_in) of ΔW = scaling · B A, from two small QR decompositions; exact."""
    Q_out, R_out = torch.linalg.qr(factors.B.double() * factors.scaling)
    Q_in, R_in = torch.linalg.qr(factors.A.double().T)
    U, S, Vh = torch.linalg.svd(R_out @ R_in.T, full_matrices=False)
    return Q_out @ U, S, Vh @ Q_in.T


def svd_side_by_side(updates: list[LoraFactors]) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """U S (d_out × R) and Vhᵢ (R × d_in) with ΔW_i = U S Vhᵢ, from the SVD of [ΔW_1 ... ΔW_N]; R is its rank.

    Directions with a singular value of (nearly) zero are left out, since they depend on how an update is factored. Entries of S Vhᵢ
    that are only rounding are zero in Vhᵢ: in an election, noise would vote with the full weight of its adapter.
    """
    d_in = updates[0].d_in
    B = torch.cat([factors.scaling * factors.B.double() for factors in updates], dim=1)
    A = torch.block_diag(*(factors.A.double() for factors in updates))
    U, S, Vh = svd_of_product(LoraFactors(A, B, scaling=1.0))
    smallest = ROUNDING * S[0]
    kept = S.gt(smallest)
    kept[0] = True
    U, S, Vh = U[:, kept], S[kept], Vh[kept]
    Vh[(S.unsqueeze(1) * Vh).abs() <= smallest] = 0.0
    return U * S, [Vh[:, start : start + d_in] for start in range(0, Vh.shape[1], d_in)]


def merged_deltas(
    name: str,
    adapters: list[LoraAdapter],
    weights: list[float],
    merge_deltas: Callable[[list[tuple[float, torch.Tensor]], str], torch.Tensor],
    rank: int,
) -> LoraAdapter:
    """Merge the updates as full matrices, then truncate to `rank` (0: the sum of the adapters' ranks).

    `merge_deltas` gets the (weight, ΔW) pairs of a module, with ΔW (d_out × d_in), and its path. The report has the rank, and the
    relative truncation error over the entire adapter.
    """
    used_rank = rank or sum(max(factors.rank for factors in adapter.factors.values()) for adapter in adapters)

    def merge_module(parts: list[tuple[float, LoraFactors]], path: str) -> tuple[LoraFactors, float, float]:
        delta = merge_deltas([(weight, factors.delta()) for weight, factors in parts], path)
        return truncated(delta, used_rank)

    return truncated_by_module(name, absent_as_zero(adapters), weights, merge_module, used_rank)


def truncated_by_module(
    name: str,
    adapters: list[LoraAdapter],
    weights: list[float],
    merge_module: Callable[[list[tuple[float, LoraFactors]], str], tuple[LoraFactors, float, float]],
    rank: int,
) -> LoraAdapter:
    """Merge module by module, several at a time, where `merge_module` also returns ‖ΔW - B A‖ and ‖ΔW‖ of a truncation to `rank`.

    The report has the rank, and the relative truncation error over the entire adapter. Raises UserError for a negative rank.
    """
    if rank < 0:
        raise UserError(f"--lora_merge_options rank={rank}: must be at least 1, or 0 for the strategy's default")
    norms: dict[str, tuple[float, float]] = {}

    def factors_of(parts: list[tuple[float, LoraFactors]], path: str) -> LoraFactors:
        factors, error, norm = merge_module(parts, path)
        norms[path] = error, norm
        return factors

    merged = merged_by_module(name, adapters, weights, factors_of, in_threads=True)
    squared_error, squared_norm = (sum(pair[place] ** 2 for pair in norms.values()) for place in (0, 1))
    relative_error = math.sqrt(squared_error / squared_norm) if squared_norm else 0.0
    return replace(merged, report={"rank": rank, "relative_truncation_error": relative_error})


def compacted(adapter: LoraAdapter, rank: int) -> LoraAdapter:
    """The adapter with the best factors of at most `rank` for each of its updates, from the factors alone.

    The report has the rank, and the relative error ‖ΔW - ΔW'‖ / ‖ΔW‖ (Frobenius) over the entire adapter. Source: Eckart and
    Young 1936.
    """
    compact = truncated_by_module(adapter.name, [adapter], [1.0], lambda parts, path: truncated_sum(parts, rank), rank)
    error = compact.report["relative_truncation_error"]
    return replace(
        adapter, factors=compact.factors, report=adapter.report | {"compact_rank": rank, "relative_compaction_error": error}
    )


def _randomized_svd(matrix: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Subspace iteration (Halko et al. 2011, algorithm 4.4)."""
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(matrix @ torch.randn(matrix.shape[1], rank, generator=generator)).Q
    for _ in range(_PASSES):
        # (Qᵀ M)ᵀ reads M row by row, twice as fast as Mᵀ Q.
        basis = torch.linalg.qr(matrix @ torch.linalg.qr((basis.T @ matrix).T).Q).Q
    U, S, Vh = torch.linalg.svd(basis.T @ matrix, full_matrices=False)
    return basis @ U, S, Vh
