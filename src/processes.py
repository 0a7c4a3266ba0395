"""The processes that `accelerate launch` starts: all of them train, the main one writes and predicts."""

from __future__ import annotations

import os


def is_main_process() -> bool:
    return os.environ.get("RANK", "0") == "0"


def process_count() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))
