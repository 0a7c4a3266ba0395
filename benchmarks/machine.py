"""What the benchmarks of this folder share: the machine's description, and rows that run in processes of their own."""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import subprocess
import sys
import time
from typing import Any

import torch


def machine() -> str:
    """The GPU's name, or the number of cores and their instructions for bfloat16."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    has_amx = torch.cpu._is_amx_tile_supported()
    kinds = {"AMX": has_amx, "AVX512-BF16": torch.cpu._is_avx512_bf16_supported(), "no AMX": not has_amx}
    return f"{torch.get_num_threads()} cores ({', '.join(name for name, there in kinds.items() if there)})"


def heading() -> str:
    """The date, the machine and torch's version, for the line above a table."""
    return f"{time.strftime('%Y-%m-%d')}, {machine()}, torch {torch.__version__}"


def row_in_a_process(name: str, words: list[str]) -> dict[str, Any]:
    """Run `python -m words`, whose last line of output is a JSON object. Ends this process with an error when it fails."""
    environment = {"OMP_WAIT_POLICY": "PASSIVE", **os.environ}
    command = [sys.executable, "-m", *words]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        sys.stderr.write(done.stderr)
        raise SystemExit(f"error: {name} failed")
    return json.loads(done.stdout.splitlines()[-1])


def peak_memory() -> float:
    """GB of this process at its peak, plus those of the largest of its child processes, which must be ending, at its own peak."""
    for child in multiprocessing.active_children():
        child.join(timeout=10)
    peaks = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(peaks) * 1024 / 1e9
