"""What tests of several folders share."""

from __future__ import annotations

from pathlib import Path

PROJECT = Path(__file__).parents[2]
SHARED_DATA = PROJECT.parent / "shared" / "data"
ARCHITECTURES = ("llama", "qwen2", "stablelm")
