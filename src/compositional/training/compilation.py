"""Compiles a model's decoder layers for a training by torch.compile, where that pays back within the run."""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import sysconfig
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
from torch import nn

from compositional.core.processes import holding, is_held

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
        with _whole_cache():
            yield
    finally:
        base.set_attn_implementation(attention)
        for layer in layers:
            layer._compiled_call_impl = None


_VARIABLE, _MARK = "TORCHINDUCTOR_CACHE_DIR", "in_use_by_"


@contextmanager
def _whole_cache() -> Iterator[None]:
    """Keep compiled code between runs in a folder of our own, which is deleted after a run that was killed.

    A file that was being compiled then is cut off, and torch.compile would fail on it. The folder of a user's own is left alone.
    """
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir

    earlier, folder = os.environ.get(_VARIABLE), Path(f"{default_cache_dir()}_compositional")
    if earlier not in (None, default_cache_dir()):
        yield
        return
    with ExitStack() as stack:
        with open(f"{folder}.lock", "w") as gate:  # the processes of a distributed training start together
            fcntl.flock(gate, fcntl.LOCK_EX)
            if _was_left_by_a_killed_run(folder):
                logger.info("a run was killed, so %s is made again", folder)
                shutil.rmtree(folder)
            folder.mkdir(parents=True, exist_ok=True)
            mark = folder / f"{_MARK}{os.getpid()}"
            stack.enter_context(holding(mark))
        os.environ[_VARIABLE] = str(folder)
        try:
            yield
        finally:
            mark.unlink(missing_ok=True)
            os.environ.pop(_VARIABLE)
            if earlier is not None:
                os.environ[_VARIABLE] = earlier


def _was_left_by_a_killed_run(folder: Path) -> bool:
    """Whether a mark is there that no process holds, and none that a process holds."""
    marks = list(folder.glob(f"{_MARK}*"))
    return bool(marks) and not any(map(is_held, marks))
