"""KnOTS: the updates are brought into one basis before they are merged, so that what is alike stands at the same place.

[ΔW_1 ... ΔW_N] = U S [V_1 ... V_N]ᵀ by SVD; the V_i are merged by TIES (trim, elect, average), and ΔW = U S Vᵀ. The rank is the
sum of the ranks at most, without any truncation. Source: arXiv 2410.19735, with TIES; its code trims S V_i, over the whole model,
where this trims V_i, module by module.
"""

from __future__ import annotations

from src.adapters.lora import LoraAdapter, LoraFactors, absent_as_zero, merged_by_module


def merge(adapters: list[LoraAdapter], weights: list[float], *, density: float = 0.5) -> LoraAdapter:
    from src.arithmetic.low_rank import svd_side_by_side
    from src.arithmetic.sparsity import agreeing_mean, trim

    def aligned(parts: list[tuple[float, LoraFactors]], path: str) -> LoraFactors:
        US, bases = svd_side_by_side([factors for _, factors in parts])
        trimmed = [trim(basis, density) for basis in bases]
        return LoraFactors(agreeing_mean([weight for weight, _ in parts], trimmed).float(), US.float(), scaling=1.0)

    return merged_by_module("knots", absent_as_zero(adapters), weights, aligned)
