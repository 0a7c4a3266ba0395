"""What the file of a stored calibration says of itself, read from its header alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from src.calibration import FILE, CalibrationSpec
from src.errors import UserError
from src.tensor_files import read_metadata, read_tensor_shapes


def spec_of_stored(folder: Path) -> CalibrationSpec:
    """Which calibration a stored model has; raises UserError when it has none."""
    path = folder / FILE
    if not path.is_file():
        raise UserError(f"there is no calibration {folder.name}: {path} is missing")
    try:
        stored = json.loads(read_metadata(path)["calibration"])
        ranks = {shape[0] for name, shape in read_tensor_shapes(path).items() if name.startswith("P1.")}
        modules = tuple(stored.get("modules", ()))
        return CalibrationSpec(
            stored["method"], stored["for_each_component"], ranks.pop() if ranks else 0, stored.get("layer_groups", 1), modules
        )
    except (KeyError, ValueError) as error:
        raise UserError(f"{path} is damaged: its header does not say which calibration it is") from error


def method_of_stored(folder: Path) -> str:
    """The method of a stored model's calibration; raises UserError when it has none."""
    return spec_of_stored(folder).method


def header_of(spec: CalibrationSpec) -> dict[str, str]:
    """What the file's header says, in one entry: several are written in random order, and equal calibrations be equal files."""
    said: dict[str, Any] = {"method": spec.method, "for_each_component": spec.for_each_component}
    said |= {"layer_groups": spec.layer_groups} if spec.layer_groups != 1 else {}
    said |= {"modules": spec.modules} if spec.modules else {}
    return {"calibration": json.dumps(said)}
