"""Compiles a model's decoder layers for a training by torch.compile, where that pays back within the run."""

from __future__ import annotations

import logging
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

logger = logging.getLogger(__name__)

AUTO, ON, OFF = "auto", "on", "off"
CHOICES = (AUTO, ON, OFF)
# Compiling takes 15 to 40 s on a CPU and saves a quarter to a half of a step: 1e13 operations take 2 to 3 minutes on two cores.
_WORTHWHILE = 1e13


def is_worthwhile(parameters: int, tokens: int, autocast: bool) -> bool:
    """Whether training on `tokens` with a frozen base of so many linear `parameters` saves more time than compiling takes.

    Mixed precision (`autocast`) without AMX gets slower by it, see docs/benchmarks.md.

    A forward and backward pass through the activations costs 4 operations per parameter and token. On a GPU the gain is not
    measured, so the answer is no.
    """
    if torch.cuda.is_available() or (autocast and not torch.cpu._is_amx_tile_supported()):
        return False
    return 4 * parameters * tokens >= _WORTHWHILE


def missing_compiler() -> str | None:
    """What torch.compile lacks on this machine; None when it lacks nothing."""
    if torch.cuda.is_available():
        from torch.utils._triton import has_triton

        return None if has_triton() else "triton is not installed"
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        return "there is no C++ compiler (g++ or clang++)"
    if not (Path(sysconfig.get_paths()["include"]) / "Python.h").is_file():
        return "Python's header files are missing (Debian: python3-dev)"
    return None


@contextmanager
def compiled_layers(base: nn.Module) -> Iterator[None]:
    """Compile the decoder layers of a transformers model inside the block. They share one compiled code.

    Shapes are dynamic, so that batches of every length share it, too. The first layer stays as it is: its input needs no
    gradient, so it would be compiled apart.
    """
    kinds = set(base._no_split_modules or ())
    layers = [module for module in base.modules() if type(module).__name__ in kinds][1:]
    attention = base.config._attn_implementation
    base.set_attn_implementation("sdpa")  # the fastest where it is compiled
    for layer in layers:
        layer.compile(dynamic=True)
    try:
        yield
    finally:
        base.set_attn_implementation(attention)
        for layer in layers:
            layer._compiled_call_impl = None
