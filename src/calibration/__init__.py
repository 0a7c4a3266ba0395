"""Learnable Calibration (LC) and Learnable Calibration++ (LC++): small trained corrections of merged LoRA adapters.

The correction of a linear module is shared by all layers: one set of parameters per module type (`for_each_component`), or
one per module shape. Source: Bohdal et al., EMNLP 2025, arXiv 2507.16083.
"""

from __future__ import annotations

from dataclasses import dataclass

LC = "learnable_calibration"
LC_PLUS_PLUS = "learnable_calibration_pp"
METHODS = (LC, LC_PLUS_PLUS)
FILE = "calibration.safetensors"
DEFAULT_LEARNING_RATES = {LC: 1e-2, LC_PLUS_PLUS: 1e-3}


@dataclass(frozen=True)
class CalibrationSpec:
    """Which calibration: `method` of METHODS; `rank` matters to LC++ only."""

    method: str
    for_each_component: bool
    rank: int = 4
