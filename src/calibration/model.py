"""A frozen model with a merge folded into its weights and a calibration on top, as it is trained."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from src.adapters.lora import LoraAdapter
from src.calibration.parameters import Calibration


def fold_adapter(model: nn.Module, adapter: LoraAdapter) -> None:
    """Add ΔW to the weight of each updated linear module, in place."""
    modules = dict(model.named_modules())
    with torch.no_grad():
        for path, factors in adapter.factors.items():
            weight = modules[path].weight
            weight.add_(factors.delta().to(weight))


def fold_biases(model: nn.Module, biases: dict[str, torch.Tensor]) -> None:
    """Give linear modules a bias: their own plus the one at their path, in place. PEFT's wrapped modules are found, too."""
    modules = dict(model.named_modules())
    for path, bias in biases.items():
        module = modules[path]
        module = getattr(module, "base_layer", module)
        own = 0 if module.bias is None else module.bias.detach()
        module.bias = nn.Parameter((own + bias.to(module.weight.device)).to(module.weight.dtype), requires_grad=False)


class CalibratedModel(nn.Module):
    """A frozen base whose linear modules add a calibration's correction to their outputs.

    The base is not a registered submodule: parameters and checkpoints of this module are the calibration's alone.
    """

    def __init__(self, base: nn.Module, calibration: Calibration) -> None:
        super().__init__()
        self.calibration = calibration
        self.config = base.config
        self._base = (base.requires_grad_(False),)
        modules = dict(base.named_modules())
        for path in calibration.component_of_module:
            modules[path].register_forward_hook(self._corrector(path))

    def _corrector(self, path: str) -> Any:
        def add_correction(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
            return output + self.calibration.correction(path, inputs[0]).to(output.dtype)

        return add_correction

    def forward(self, **inputs: Any) -> Any:
        return self._base[0](**inputs)

    def gradient_checkpointing_enable(self, **options: Any) -> None:
        """Called by the Trainer. Checkpointing works in training mode only, which the hidden base is not told of otherwise."""
        self._base[0].train()
        self._base[0].gradient_checkpointing_enable(**options)
        self._base[0].enable_input_require_grads()
