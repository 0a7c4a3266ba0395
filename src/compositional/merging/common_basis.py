"""Merges in a common basis of the updates: KnOTS and singular value calibration."""

from __future__ import annotations

from compositional.adapters.lora import LoraAdapter, LoraFactors, absent_as_zero, merged_by_module, stacked


def knots(adapters: list[LoraAdapter], weights: list[float], *, density: float = 0.5) -> LoraAdapter:
    """KnOTS: the updates are expressed in a common basis before they are merged, so that similar directions are aligned.

    [ΔW_1 ... ΔW_N] = U S [V_1 ... V_N]ᵀ by SVD; the V_i are merged by TIES (trim, elect, average), and ΔW = U S Vᵀ. The rank is at
    most the sum of the ranks; nothing is truncated. Source: arXiv 2410.19735, with TIES. Its code trims S V_i over the entire
    model; this function trims V_i, module by module.
    """
    from compositional.adapters.low_rank import svd_side_by_side
    from compositional.adapters.sparsity import agreeing_mean, trim

    def aligned(parts: list[tuple[float, LoraFactors]], path: str) -> LoraFactors:
        US, bases = svd_side_by_side([factors for _, factors in parts])
        trimmed = [trim(basis, density) for basis in bases]
        return LoraFactors(agreeing_mean([weight for weight, _ in parts], trimmed).float(), US.float(), scaling=1.0)

    return merged_by_module("knots", absent_as_zero(adapters), weights, aligned)


def svc(adapters: list[LoraAdapter], weights: list[float], *, alpha: float = 1.0) -> LoraAdapter:
    """Singular value calibration of the linear merge: directions shared by several updates are not counted repeatedly.

    ΔW = Σ w_i ΔW_i = U S Vᵀ. With a_i = u_rᵀ ΔW_i and a = u_rᵀ ΔW, the r-th singular value is divided by the larger of
    mean_i <a, a_i> / <a_i, a_i> and alpha where all <a, a_i> are positive, and kept otherwise. Closed form, no data. Source: arXiv
    2602.05536. It corrects sums (weights 1 1); a mean (1/2 1/2) has nothing above alpha = 1.
    """
    import torch

    from compositional.adapters.low_rank import ROUNDING, svd_of_product

    def calibrated(parts: list[tuple[float, LoraFactors]], path: str) -> LoraFactors:
        U, S, Vh = svd_of_product(stacked(parts))
        merged = S.unsqueeze(1) * Vh  # row r is u_rᵀ ΔW
        ratios = []
        for _, factors in parts:
            rows = factors.scaling * (U.T @ factors.B.double()) @ factors.A.double()
            squares = rows.square().sum(dim=1)
            # The ratio is 0 where an update has no part in a direction; rounding would give it a random sign.
            has_part = squares > (ROUNDING * S[0]) ** 2
            ratios.append(torch.where(has_part, (merged * rows).sum(dim=1) / squares, 0.0))
        ratios = torch.stack(ratios)
        inflation = torch.where((ratios > 0).all(dim=0), ratios.mean(dim=0).clamp(min=alpha), 1.0)
        return LoraFactors(Vh.float(), (U * (S / inflation)).float(), scaling=1.0)

    return merged_by_module("svc", absent_as_zero(adapters), weights, calibrated)
