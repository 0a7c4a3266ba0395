"""Dropout of a LoRA's input on a CPU, at a fraction of the time and memory of a mask.

A mask needs a random number per entry. Here a Poisson number of entries is drawn and set to zero instead, λ = -ln(1 - p) per
entry, at uniform positions. An entry is then missed by all of them with probability e^{-λ} = 1 - p, independently of the other
entries: the same distribution as that of a mask. The positions follow from a seed, so that the backward pass draws them again
and nothing is stored.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import nn

_ADAPTER = "default"


@torch.library.custom_op("compositional::dropped", mutates_args=())
def dropped(x: torch.Tensor, p: float, seed: torch.Tensor) -> torch.Tensor:
    """A copy of x, of any shape, where each entry is zero with probability p. `seed` (one int64) decides which.

    The others are not rescaled. Linear in x, and its own transpose.
    """
    generator = torch.Generator().manual_seed(int(seed))
    copied = x.clone(memory_format=torch.contiguous_format)
    count = int(torch.poisson(torch.tensor(-math.log1p(-p) * x.numel(), dtype=torch.float64), generator))
    positions = torch.randint(max(x.numel(), 1), (count,), generator=generator)
    copied.view(-1).index_fill_(0, positions, 0.0)
    return copied


@dropped.register_fake
def _(x: torch.Tensor, p: float, seed: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


class _DroppedProduct(torch.autograd.Function):
    """D(x) Aᵀ / (1 - p), where D sets entries to zero. D(x) is made again for the gradient of A, so only x is kept."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, A: torch.Tensor, p: float, seed: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x, A, seed)
        ctx.p = p
        return dropped(x, p, seed) @ A.T / (1 - p)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None, None]:
        x, A, seed = ctx.saved_tensors
        scaled = gradient / (1 - ctx.p)
        of_A = scaled.flatten(0, -2).T @ dropped(x, ctx.p, seed).flatten(0, -2)
        return dropped(scaled @ A, ctx.p, seed), of_A, None, None


class DroppedLinear(nn.Linear):
    """A linear module without bias whose input's entries are dropped with probability `p` in training. `seed` is one int64."""

    def __init__(self, linear: nn.Linear, p: float, seed: torch.Tensor) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight, self.bias = linear.weight, None
        self.p = p
        self.register_buffer("seed", seed, persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., d_out) for x (..., d_in)."""
        if not self.training:
            return super().forward(x)
        if torch.is_autocast_enabled(x.device.type):
            dtype = torch.get_autocast_dtype(x.device.type)
            return _DroppedProduct.apply(x.to(dtype), self.weight.to(dtype), self.p, self.seed)
        return _DroppedProduct.apply(x, self.weight, self.p, self.seed)


def drop_by_positions(peft_model: nn.Module) -> None:
    """Replace the dropout of all LoRA layers of a PEFT model. Each forward pass draws new seeds from PyTorch's generator."""
    layers = [module for module in peft_model.modules() if isinstance(module, LoraLayer) and _probability(module) > 0]
    seeds = torch.zeros(len(layers), dtype=torch.int64)
    for layer, seed in zip(layers, seeds, strict=True):
        layer.lora_A[_ADAPTER] = DroppedLinear(layer.lora_A[_ADAPTER], _probability(layer), seed)
        layer.lora_dropout[_ADAPTER] = nn.Identity()

    def draw_seeds(*_: Any) -> None:
        seeds.random_()

    if layers:
        peft_model.register_forward_pre_hook(draw_seeds)


def _probability(layer: LoraLayer) -> float:
    return getattr(layer.lora_dropout[_ADAPTER], "p", 0.0)
