"""Spherical interpolation of two updates."""

from __future__ import annotations

import math

from compositional.adapters.lora import LoraAdapter, LoraFactors, absent_as_zero, merged_by_module, stacked
from compositional.core.errors import UserError

_PARALLEL = 0.9995  # above this cosine, the sine is too small to divide by


def slerp(adapters: list[LoraAdapter], weights: list[float]) -> LoraAdapter:
    """Spherical interpolation of two updates, exact: ΔW = sin((1-t)Ω)/sin Ω · ΔW_1 + sin(tΩ)/sin Ω · ΔW_2 in each module.

    Ω is the angle between ΔW_1 and ΔW_2, and t = w_2 / (w_1 + w_2). Source: Shoemake 1985, as used for merging: the updates
    keep their lengths, and the coefficients depend on the angle only. Updates that are zero or (nearly) parallel are
    interpolated linearly.

    Raises UserError for more or fewer than two adapters, and for weights that are negative or all zero.
    """
    if len(adapters) != 2:
        raise UserError(f"slerp merges two adapters, {len(adapters)} are given: use linear for more")
    if min(weights) < 0 or sum(weights) == 0:
        raise UserError(f"slerp takes weights that say how far to go from one to the other; {weights} can't: use linear")
    return merged_by_module("slerp", absent_as_zero(adapters), weights, lambda parts, path: _interpolated(parts))


def _interpolated(parts: list[tuple[float, LoraFactors]]) -> LoraFactors:
    (w1, one), (w2, two) = parts
    first, second = coefficients(_cosine(one, two), w2 / (w1 + w2))
    return stacked([(first, one), (second, two)])


def coefficients(cosine: float, t: float) -> tuple[float, float]:
    """The coefficients of the two updates."""
    if abs(cosine) > _PARALLEL:
        return 1 - t, t
    angle = math.acos(cosine)
    return math.sin((1 - t) * angle) / math.sin(angle), math.sin(t * angle) / math.sin(angle)


def _cosine(one: LoraFactors, two: LoraFactors) -> float:
    from compositional.adapters.low_rank import inner_product

    # Rounding can make the square of a vanishing update slightly negative.
    length = math.sqrt(max(0.0, inner_product(one, one)) * max(0.0, inner_product(two, two)))
    return max(-1.0, min(1.0, inner_product(one, two) / length)) if length else 1.0
