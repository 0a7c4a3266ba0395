"""Learnable Calibration (LC) and Learnable Calibration++ (LC++): small trained corrections of merged LoRA adapters.

The correction of a linear module is shared by all layers: one set of parameters per module type (`for_each_component`), or
one per module shape. Source: Bohdal et al., EMNLP 2025, arXiv 2507.16083.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compositional.adapters.peft_folder import CALIBRATION_FILE, StoredAdapter
from compositional.core.errors import UserError
from compositional.core.files import read_metadata, read_tensor_shapes

LC = "learnable_calibration"
LC_PLUS_PLUS = "learnable_calibration_pp"
METHODS = (LC, LC_PLUS_PLUS)
DESCRIPTIONS = {
    LC: "LC: one vector of biases per module type, shared by all layers",
    LC_PLUS_PLUS: "LC++: a low-rank update per module type, shared by all layers",
}
DEFAULT_LEARNING_RATES = {LC: 1e-2, LC_PLUS_PLUS: 1e-3}
DEFAULT_NUM_EXAMPLES = 10000


@dataclass(frozen=True)
class CalibrationSpec:
    """The kind of calibration. `method` is one of METHODS; `rank` is used by LC++ only.

    `layer_groups` is the number of groups of consecutive layers, each with its own parameters: 1 shares them across all
    layers, as in the paper, and 0 gives each layer its own. `modules` are the calibrated module types (empty: all).
    """

    method: str
    for_each_component: bool
    rank: int = 4
    layer_groups: int = 1
    modules: tuple[str, ...] = ()


def components_of_modules(spec: CalibrationSpec, shapes: dict[str, tuple[int, int]]) -> dict[str, str]:
    """The name of the parameter set (component) of each calibrated module, by module path.

    The name is the module's type (`for_each_component`), or else its shape, d_out × d_in. With several layer groups, the group
    is appended. Raises UserError when a component's modules differ in shape, and for modules or layers that do not exist.
    """
    types = {path: path.rsplit(".", 1)[-1] for path in shapes}
    if unknown := [name for name in spec.modules if name not in types.values()]:
        known = ", ".join(sorted(set(types.values())))
        raise UserError(f"--calibration_modules {' '.join(unknown)}: the merge updates {known}")
    groups = _layer_groups(spec.layer_groups, list(shapes))
    components: dict[str, str] = {}
    shape_of: dict[str, tuple[int, int]] = {}
    for path, shape in shapes.items():
        if spec.modules and types[path] not in spec.modules:
            continue
        name = types[path] if spec.for_each_component else f"{shape[0]}x{shape[1]}"
        components[path] = f"{name}_group{groups[path]}" if groups else name
        if shape_of.setdefault(components[path], shape) != shape:
            raise UserError(
                f"{name} modules have several shapes ({shape_of[components[path]]}, {shape}): drop --for_each_component"
            )
    return components


def _layer_groups(count: int, paths: list[str]) -> dict[str, int]:
    """The group of each module's layer; empty when all layers form one group. Group sizes differ by at most one layer."""
    if count == 1:
        return {}
    layer_of = {path: int(match[1]) if (match := re.search(r"\.(\d+)\.", path)) else 0 for path in paths}
    layers = sorted(set(layer_of.values()))
    if count > len(layers):
        raise UserError(f"--calibration_layer_groups {count}: the merge updates {len(layers)} layers")
    return {path: layers.index(layer) * (count or len(layers)) // len(layers) for path, layer in layer_of.items()}


def spec_of_stored(folder: Path) -> CalibrationSpec:
    """The spec of a stored model's calibration; raises UserError when it has no calibration."""
    path = folder / CALIBRATION_FILE
    if not path.is_file():
        raise UserError(f"there is no calibration {folder.name}: {path} is missing")
    try:
        stored = json.loads(read_metadata(path)["calibration"])
        ranks = {shape[0] for name, shape in read_tensor_shapes(path).items() if name.startswith("P1.")}
        modules = tuple(stored.get("modules", ()))
        return CalibrationSpec(
            stored["method"], stored["for_each_component"], ranks.pop() if ranks else 0, stored.get("layer_groups", 1), modules
        )
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path} is damaged: its header does not say which calibration it is") from error


def biased_modules(adapters: Iterable[StoredAdapter]) -> set[str]:
    """Paths of the modules in which stored adapters have the biases of a Learnable Calibration."""
    biased = [adapter for adapter in adapters if adapter.has_biases]
    return {path for one in biased for path in components_of_modules(spec_of_stored(one.folder), one.shapes)}


def method_of_stored(folder: Path) -> str:
    """The method of a stored model's calibration; raises UserError when it has no calibration."""
    return spec_of_stored(folder).method


def header_of(spec: CalibrationSpec) -> dict[str, str]:
    """The file's metadata, in a single entry: several would be in random order, and equal calibrations must be equal files."""
    fields: dict[str, Any] = {"method": spec.method, "for_each_component": spec.for_each_component}
    fields |= {"layer_groups": spec.layer_groups} if spec.layer_groups != 1 else {}
    fields |= {"modules": spec.modules} if spec.modules else {}
    return {"calibration": json.dumps(fields)}
