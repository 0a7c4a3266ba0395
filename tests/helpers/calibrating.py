"""Shapes of models, and random merges and calibrations of them."""

from __future__ import annotations

import torch

from compositional.adapters.lora import LoraAdapter, LoraFactors
from compositional.calibration import CalibrationSpec
from compositional.calibration.parameters import Calibration
from compositional.models.model import Model

MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def shapes_of(layers: int, hidden: int, kv: int, feed_forward: int) -> dict[str, tuple[int, int]]:
    out = {
        "q_proj": (hidden, hidden),
        "k_proj": (kv, hidden),
        "v_proj": (kv, hidden),
        "o_proj": (hidden, hidden),
        "gate_proj": (feed_forward, hidden),
        "up_proj": (feed_forward, hidden),
        "down_proj": (hidden, feed_forward),
    }
    return {f"model.layers.{layer}.{name}": shape for layer in range(layers) for name, shape in out.items()}


def random_merge(folder, rank: int = 3) -> LoraAdapter:
    generator = torch.Generator().manual_seed(5)
    shapes = {path: shape for path, shape in Model(str(folder)).linear_shapes.items() if path.split(".")[-1] in MODULES}
    factors = {
        path: LoraFactors(torch.randn(rank, d_in, generator=generator), 0.1 * torch.randn(d_out, rank, generator=generator), 0.5)
        for path, (d_out, d_in) in shapes.items()
    }
    return LoraAdapter("merged", str(folder), factors)


def random_calibration(merged: LoraAdapter, method: str, for_each_component: bool = True) -> Calibration:
    shapes = {path: (factors.d_out, factors.d_in) for path, factors in merged.factors.items()}
    calibration = Calibration(CalibrationSpec(method, for_each_component, rank=4), shapes)
    torch.manual_seed(11)
    for parameter in calibration.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return calibration
