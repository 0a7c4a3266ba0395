"""The processes that `accelerate launch` starts: all of them train, the main one writes and predicts."""

from __future__ import annotations

import os


def is_main_process() -> bool:
    return os.environ.get("RANK", "0") == "0"


def process_count() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def wait_for_all_processes() -> None:
    """A barrier; nothing for a process alone."""
    if process_count() > 1:
        import torch
        from accelerate import PartialState

        PartialState(cpu=not torch.cuda.is_available()).wait_for_everyone()


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
