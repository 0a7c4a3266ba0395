"""The precision of a training: that of the frozen base's weights, and that of the matrix products."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

from compositional.core.machine import has_bfloat16, has_fast_bfloat16
from compositional.formats.gguf import QUANTIZED

logger = logging.getLogger(__name__)

AUTO, FLOAT32, BFLOAT16 = "auto", "float32", "bfloat16"
# Smaller models gain little from bfloat16: their steps are not limited by matrix products.
_LARGE = 50_000_000


@dataclass(frozen=True)
class Precision:
    """`weights` is the precision of the frozen base's weights. With `autocast`, matrix products are in bfloat16.

    `rounded_to` is a quantized precision of GGUF whose values the weights have. Adapters, calibrations and the optimizer's state
    are in float32 in any case.
    """

    weights: str = FLOAT32
    autocast: bool = False
    rounded_to: str | None = None

    def __str__(self) -> str:
        if self.rounded_to:
            return f"{self.rounded_to} base, {replace(self, rounded_to=None)}"
        if self.weights == BFLOAT16:
            return "bfloat16 base"
        return "bfloat16 mixed" if self.autocast else FLOAT32


def resolve_precision(train_dtype: str, bf16: bool, parameters: int) -> Precision:
    """The precision that the flags ask for on this device.

    `--bf16` is mixed precision: a float32 base with products in bfloat16, or float32 alone on a CPU without bfloat16
    instructions. `--train_dtype auto` is a bfloat16 base on a GPU, and mixed precision on a CPU, for models of at least
    50M linear `parameters` where bfloat16 products are faster than float32 products (see `has_fast_bfloat16`); else float32. On
    CPUs, mixed precision was the faster of the two (docs/benchmarks.md). A quantized precision is its values in a float32 base.
    """
    import torch

    rounded_to = train_dtype if train_dtype in QUANTIZED else None
    if bf16 or rounded_to:
        return Precision(autocast=bf16 and has_bfloat16(), rounded_to=rounded_to)
    if train_dtype == BFLOAT16:
        return Precision(BFLOAT16, autocast=True)
    if train_dtype == AUTO and parameters >= _LARGE and has_fast_bfloat16():
        return Precision(BFLOAT16 if torch.cuda.is_available() else FLOAT32, autocast=True)
    return Precision()
