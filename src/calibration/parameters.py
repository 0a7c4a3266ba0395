"""The parameters of a calibration, what they add to a linear module's output, and their file."""

from __future__ import annotations

import json
import math
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from src.adapters.lora import LoraAdapter, LoraFactors, module_type, stacked
from src.calibration import FILE, LC, CalibrationSpec
from src.errors import UserError


def component_of(spec: CalibrationSpec, module_path: str, shape: tuple[int, int]) -> str:
    """The set of parameters that a module uses: its type (`for_each_component`), else its shape, d_out × d_in."""
    return module_type(module_path) if spec.for_each_component else f"{shape[0]}x{shape[1]}"


class Calibration(nn.Module):
    """Trained correction c of linear modules, shared across layers: y = W x + ΔW x + c(x).

    LC: c(x) = p, with p (d_out). LC++: c(x) = P2 P1 x, with P1 (rank × d_in) and P2 (d_out × rank). p and P2 start at zero,
    P1 as LoRA's A does.

    Args:
        shapes: (d_out, d_in) of each calibrated module by its path.
    """

    def __init__(self, spec: CalibrationSpec, shapes: dict[str, tuple[int, int]], seed: int = 0) -> None:
        super().__init__()
        self.spec = spec
        self.component_of_module = {path: component_of(spec, path, shape) for path, shape in shapes.items()}
        components: dict[str, tuple[int, int]] = {}
        for path, shape in shapes.items():
            component = self.component_of_module[path]
            if components.setdefault(component, shape) != shape:
                raise UserError(
                    f"{component} modules have several shapes ({components[component]}, {shape}): drop --for_each_component"
                )
        generator = torch.Generator().manual_seed(seed)
        if spec.method == LC:
            self.p = nn.ParameterDict({name: nn.Parameter(torch.zeros(d_out)) for name, (d_out, _) in components.items()})
        else:
            self.P1 = nn.ParameterDict({name: _as_lora_A(spec.rank, d_in, generator) for name, (_, d_in) in components.items()})
            self.P2 = nn.ParameterDict(
                {name: nn.Parameter(torch.zeros(d_out, spec.rank)) for name, (d_out, _) in components.items()}
            )

    def correction(self, module_path: str, x: torch.Tensor) -> torch.Tensor:
        """c(x), (d_out) for LC and (..., d_out) for LC++, for x (..., d_in)."""
        component = self.component_of_module[module_path]
        if self.spec.method == LC:
            return self.p[component]
        return functional.linear(functional.linear(x, self.P1[component]), self.P2[component])

    @property
    def num_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters())

    def fold_into(self, merged: LoraAdapter) -> LoraAdapter:
        """The merged adapter with P2 P1 as further ranks (LC++); LC's biases have no place in an adapter, so it stays as it is."""
        if self.spec.method == LC:
            return merged
        factors = {}
        for path, update in merged.factors.items():
            component = self.component_of_module[path]
            P1, P2 = self.P1[component].detach().cpu(), self.P2[component].detach().cpu()
            factors[path] = stacked([(1.0, update), (1.0, LoraFactors(P1, P2, scaling=1.0))])
        return LoraAdapter(self.spec.method, merged.base_model, factors)

    def write(self, folder: Path, dtype: str) -> Path:
        """Write calibration.safetensors: what is stored on a device beside the single-task adapters."""
        from safetensors.torch import save_file

        kind = getattr(torch, dtype)
        tensors = {name: parameter.detach().cpu().to(kind).contiguous() for name, parameter in self.named_parameters()}
        spec = {"method": self.spec.method, "for_each_component": self.spec.for_each_component}
        # One entry: safetensors writes several in random order, and equal calibrations shall be equal files.
        save_file(tensors, folder / FILE, metadata={"calibration": json.dumps(spec)})
        return folder / FILE


def read_biases(folder: Path, shapes: dict[str, tuple[int, int]]) -> dict[str, torch.Tensor]:
    """LC's bias p (d_out, float32) for each module of an adapter folder; empty when the folder has none to add."""
    from safetensors import safe_open

    path = folder / FILE
    if not path.is_file():
        return {}
    with safe_open(path, "pt") as file:
        stored = json.loads(file.metadata()["calibration"])
        if stored["method"] != LC:
            return {}
        spec = CalibrationSpec(LC, stored["for_each_component"])
        return {module: file.get_tensor(f"p.{component_of(spec, module, shape)}").float() for module, shape in shapes.items()}


def _as_lora_A(rank: int, d_in: int, generator: torch.Generator) -> nn.Parameter:
    bound = 1 / math.sqrt(d_in)  # kaiming_uniform_ with a = √5, PEFT's start of A
    return nn.Parameter((torch.rand(rank, d_in, generator=generator) * 2 - 1) * bound)
