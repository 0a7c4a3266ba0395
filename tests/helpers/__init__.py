"""What tests of several folders share."""

from __future__ import annotations

from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
SHARED_DATA = PROJECT.parent / "shared" / "data"
ARCHITECTURES = ("llama", "qwen2", "stablelm")
# Tests of one architecture that share a finished workspace or an engine run in one process of pytest-xdist.
BY_ARCHITECTURE = [pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in ARCHITECTURES]
