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


def shapes_of_parameters(spec: CalibrationSpec, shapes: dict[str, tuple[int, int]]) -> dict[str, list[int]]:
    """The shape of each tensor in the file of a calibration of modules of given shapes; raises as `components_of_modules` does."""
    components = {component: shapes[path] for path, component in components_of_modules(spec, shapes).items()}
    if spec.method == LC:
        return {f"p.{name}": [d_out] for name, (d_out, _) in components.items()}
    P1 = {f"P1.{name}": [spec.rank, d_in] for name, (_, d_in) in components.items()}
    return P1 | {f"P2.{name}": [d_out, spec.rank] for name, (d_out, _) in components.items()}


_PARAMETERS = {LC: {"p"}, LC_PLUS_PLUS: {"P1", "P2"}}


def spec_of_stored(folder: Path) -> CalibrationSpec:
    """The spec of a stored model's calibration.

    Raises UserError when it has no calibration, or one whose header is damaged or names another method than that of its tensors.
    """
    path = folder / CALIBRATION_FILE
    if not path.is_file():
        raise UserError(f"there is no calibration {folder.name}: {path} is missing")
    stored = _stored_header(path)
    method, tensors = stored["method"], read_tensor_shapes(path)
    if {name.partition(".")[0] for name in tensors} != _PARAMETERS[method]:
        of_others = sorted(name for name in tensors if name.partition(".")[0] not in _PARAMETERS[method])
        found = f"it has {of_others[0]}" if of_others else "tensors of it are missing"
        raise UserError(f"{path} is damaged: its header says {method}, and {found}: learn the calibration again")
    ranks = {shape[0] for name, shape in tensors.items() if name.startswith("P1.") and shape}
    modules, groups = tuple(stored.get("modules", ())), stored.get("layer_groups", 1)
    return CalibrationSpec(method, stored["for_each_component"], min(ranks, default=0), groups, modules)


def _stored_header(path: Path) -> dict[str, Any]:
    """What a calibration's header says; raises UserError when it is not as `header_of` writes it."""
    fault = f"{path} is damaged: its header does not say which calibration it is"
    try:
        stored = json.loads(read_metadata(path).get("calibration", ""))
    except (ValueError, RecursionError) as error:
        raise UserError(fault) from error
    if not isinstance(stored, dict):
        raise UserError(fault)
    modules, groups = stored.get("modules", []), stored.get("layer_groups", 1)
    checks = {
        "method": stored.get("method") in METHODS,
        "for_each_component": isinstance(stored.get("for_each_component"), bool),
        "layer_groups": type(groups) is int and groups >= 0,
        "modules": isinstance(modules, list) and all(isinstance(name, str) for name in modules),
    }
    if wrong := [f"{name} is {stored.get(name)!r}" for name, right in checks.items() if not right]:
        raise UserError(f"{fault} ({', '.join(wrong)})")
    return stored


def fits_modules(folder: Path, shapes: dict[str, tuple[int, int]]) -> bool:
    """Whether a stored model's calibration was learned for modules of given shapes; raises UserError as `spec_of_stored` does."""
    spec = spec_of_stored(folder)
    try:
        return shapes_of_parameters(spec, shapes) == read_tensor_shapes(folder / CALIBRATION_FILE)
    except UserError:
        return False


def check_calibration_fits(folder: Path, shapes: dict[str, tuple[int, int]]) -> None:
    """Raise UserError when the calibration beside an adapter, if there is one, was not learned for the modules that it updates."""
    path = folder / CALIBRATION_FILE
    if path.is_file() and not fits_modules(folder, shapes):
        raise UserError(f"{path} does not fit the adapter beside it: it was learned for modules of other shapes or types")


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
