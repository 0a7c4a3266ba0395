"""The parameters of a calibration, the correction that they add to a linear module's output, and their file."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from compositional.adapters.lora import LoraAdapter, LoraFactors, stacked
from compositional.adapters.peft_folder import CALIBRATION_FILE, check_finite, rounded
from compositional.calibration import (
    LC,
    CalibrationSpec,
    check_calibration_fits,
    components_of_modules,
    fits_modules,
    header_of,
    method_of_stored,
    spec_of_stored,
)
from compositional.core.errors import UserError


class Calibration(nn.Module):
    """Trained correction c of linear modules, shared across (groups of) layers: y = W x + ΔW x + c(x).

    LC: c(x) = p, with p (d_out). LC++: c(x) = P2 P1 x, with P1 (rank × d_in) and P2 (d_out × rank). p and P2 are initialised
    to zero, P1 like LoRA's A.

    Args:
        shapes: (d_out, d_in) of each calibrated module by its path.
    """

    def __init__(self, spec: CalibrationSpec, shapes: dict[str, tuple[int, int]], seed: int = 0) -> None:
        super().__init__()
        self.spec = spec
        self.component_of_module = components_of_modules(spec, shapes)
        components = {component: shapes[path] for path, component in self.component_of_module.items()}
        generator = torch.Generator().manual_seed(seed)
        if spec.method == LC:
            self.p = nn.ParameterDict({name: nn.Parameter(torch.zeros(d_out)) for name, (d_out, _) in components.items()})
        else:
            self.P1 = nn.ParameterDict({name: _as_lora_A(spec.rank, d_in, generator) for name, (_, d_in) in components.items()})
            self.P2 = nn.ParameterDict(
                {name: nn.Parameter(torch.zeros(d_out, spec.rank)) for name, (d_out, _) in components.items()}
            )

    @property
    def corrected_paths(self) -> list[str]:
        """The paths of the calibrated modules."""
        return list(self.component_of_module)

    def correction_of(self, module_path: str) -> nn.Module:
        """c of one module, with the parameters that it shares: x (..., d_in) to (d_out) for LC and (..., d_out) for LC++."""
        component = self.component_of_module[module_path]
        if self.spec.method == LC:
            return _Bias(self.p[component])
        return _LowRank(self.P1[component], self.P2[component])

    @property
    def num_parameters(self) -> int:
        """The number of trained parameters. Parameters shared by several layers count once."""
        return sum(parameter.numel() for parameter in self.parameters())

    def fold_into(self, merged: LoraAdapter) -> LoraAdapter:
        """The merged adapter with P2 P1 as additional ranks (LC++). An adapter can't hold LC's biases: for LC it is unchanged."""
        if self.spec.method == LC:
            return merged
        factors = {}
        for path, update in merged.factors.items():
            parts = [(1.0, update)]
            if component := self.component_of_module.get(path):
                P1, P2 = self.P1[component].detach().cpu(), self.P2[component].detach().cpu()
                parts.append((1.0, LoraFactors(P1, P2, scaling=1.0)))
            factors[path] = stacked(parts)
        return replace(merged, name=self.spec.method, factors=factors)

    def write(self, folder: Path, dtype: str) -> Path:
        """Write calibration.safetensors, which a device stores in addition to the single-task adapters.

        Raises UserError for values that the precision can't hold.
        """
        from safetensors.torch import save_file

        save_file(rounded(dict(self.named_parameters()), dtype), folder / CALIBRATION_FILE, metadata=header_of(self.spec))
        return folder / CALIBRATION_FILE


class _Bias(nn.Module):
    """LC: c(x) = p."""

    def __init__(self, p: nn.Parameter) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """p (d_out), whatever x is."""
        return self.p


class _LowRank(nn.Module):
    """LC++: c(x) = P2 P1 x."""

    def __init__(self, P1: nn.Parameter, P2: nn.Parameter) -> None:
        super().__init__()
        self.P1, self.P2 = P1, P2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., d_out) for x (..., d_in)."""
        return functional.linear(functional.linear(x, self.P1), self.P2)


def read_calibration(folder: Path, shapes: dict[str, tuple[int, int]]) -> Calibration:
    """A stored model's calibration for modules of given shapes (d_out, d_in); raises UserError when it does not fit them."""
    from safetensors.torch import load_file

    if not fits_modules(folder, shapes):
        raise UserError(f"calibration {folder.name} does not fit the merge: it was learned for modules of other shapes or types")
    check_finite(folder / CALIBRATION_FILE)
    calibration = Calibration(spec_of_stored(folder), shapes)
    calibration.load_state_dict(load_file(folder / CALIBRATION_FILE))
    return calibration


def read_biases(folder: Path, shapes: dict[str, tuple[int, int]]) -> dict[str, torch.Tensor]:
    """LC's bias p (d_out, float32) of each calibrated module, from an adapter's folder; empty when the folder has no biases.

    Raises UserError for a calibration that is damaged, or that was not learned for these modules.
    """
    from safetensors import safe_open

    path = folder / CALIBRATION_FILE
    check_calibration_fits(folder, shapes)
    if not path.is_file() or method_of_stored(folder) != LC:
        return {}
    components = components_of_modules(spec_of_stored(folder), shapes)
    with safe_open(path, "pt") as file:
        return {module: file.get_tensor(f"p.{component}").float() for module, component in components.items()}


def _as_lora_A(rank: int, d_in: int, generator: torch.Generator) -> nn.Parameter:
    bound = 1 / math.sqrt(d_in)  # kaiming_uniform_ with a = √5, PEFT's initialisation of A
    return nn.Parameter((torch.rand(rank, d_in, generator=generator) * 2 - 1) * bound)


def fold_biases(model: nn.Module, biases: dict[str, torch.Tensor]) -> None:
    """Add biases to those of linear modules, by path and in place. Modules wrapped by PEFT are supported."""
    modules = dict(model.named_modules())
    for path, bias in biases.items():
        module = modules[path]
        module = getattr(module, "base_layer", module)
        own = 0 if module.bias is None else module.bias.detach()
        module.bias = nn.Parameter((own + bias.to(module.weight.device)).to(module.weight.dtype), requires_grad=False)
