"""Safetensors files by their headers alone: shapes, sizes, and whether a file is whole. No heavy import."""

from __future__ import annotations

import json
import math
from pathlib import Path

from src.errors import UserError


def read_tensor_shapes(path: Path) -> dict[str, list[int]]:
    """The shape of each tensor; raises UserError when the file is damaged or cut off."""
    return _read_header(path)[0]


def read_metadata(path: Path) -> dict[str, str]:
    """The texts that the file's header carries beside the tensors; raises UserError when the file is damaged or cut off."""
    return _read_header(path)[1]


def _read_header(path: Path) -> tuple[dict[str, list[int]], dict[str, str]]:
    size = path.stat().st_size
    with open(path, "rb") as file:
        header_size = int.from_bytes(file.read(8), "little")
        if header_size + 8 > size:
            raise UserError(f"{path} is damaged: it is shorter than its header says")
        try:
            header = json.loads(file.read(header_size))
            metadata = header.pop("__metadata__", {})
            end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
            shapes = {name: entry["shape"] for name, entry in header.items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path} is damaged: its header can't be read ({error})") from error
    if header_size + 8 + end != size:
        raise UserError(f"{path} is damaged: {header_size + 8 + end} bytes are expected, it has {size}")
    return shapes, metadata


def count_parameters(path: Path) -> int:
    return sum(math.prod(shape) for shape in read_tensor_shapes(path).values())
