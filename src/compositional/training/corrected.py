"""A frozen model whose linear modules add trained corrections to their outputs."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from compositional.adapters.lora import LoraAdapter
from compositional.adapters.updates import AdapterUpdates, Correction
from compositional.calibration.parameters import Calibration


def fold_adapter(model: nn.Module, adapter: LoraAdapter) -> None:
    """Add ΔW to the weight of each updated linear module, in place. The sum is in float32 and rounded once."""
    modules = dict(model.named_modules())
    with torch.no_grad():
        for path, factors in adapter.factors.items():
            weight = modules[path].weight
            weight.copy_(weight.float() + factors.delta().to(weight.device))


class SharedCorrection(nn.Module):
    """Several merges on a frozen base model, each for its own examples, and one calibration that they share."""

    def __init__(self, merges: list[LoraAdapter], calibration: Calibration) -> None:
        super().__init__()
        self.updates = AdapterUpdates(merges, [1.0] * len(merges))
        self.calibration = calibration

    @property
    def corrected_paths(self) -> list[str]:
        """The paths of the modules that at least one merge updates."""
        return self.updates.corrected_paths

    def choose(self, merge_index: torch.Tensor) -> None:
        """Choose the merge for each example of the next batch: `merge_index` (batch) has the merges' numbers."""
        self.updates.choose(merge_index)

    def correction_of(self, module_path: str) -> nn.Module:
        """Maps x (..., d_in) to the merge's update plus the calibration's correction (..., d_out)."""
        update = self.updates.correction_of(module_path)
        calibrated = module_path in self.calibration.component_of_module
        return _Sum(update, self.calibration.correction_of(module_path)) if calibrated else update


class _Sum(nn.Module):
    """The sum of two corrections."""

    def __init__(self, one: nn.Module, other: nn.Module) -> None:
        super().__init__()
        self.one, self.other = one, other

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., d_out) for x (..., d_in)."""
        return self.one(x) + self.other(x)


class _CorrectedLinear(nn.Module):
    """A linear module and the correction of its output."""

    def __init__(self, linear: nn.Module, correction: nn.Module) -> None:
        super().__init__()
        self.linear, self.correction = linear, correction

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., d_out) for x (..., d_in), in the precision of the linear module's output."""
        output = self.linear(x)
        return output + self.correction(x).to(output.dtype)


class CorrectedModel(nn.Module):
    """A frozen base model whose linear modules add a correction (an nn.Module) to their outputs, until `release` is called.

    The base is not a registered submodule: this module's parameters and checkpoints are only those of the correction. Raises
    ValueError for a model that is corrected already, whose outputs would have both corrections.
    """

    def __init__(self, base: nn.Module, correction: Correction) -> None:
        super().__init__()
        if any(isinstance(module, _CorrectedLinear) for module in base.modules()):
            raise ValueError("the model is corrected already: call `release` of its CorrectedModel first")
        self.correction = correction
        self.config = base.config
        self._base = (base.requires_grad_(False),)
        self._recomputes = False
        for path in correction.corrected_paths:
            self._replace(path, _CorrectedLinear(base.get_submodule(path), correction.correction_of(path)))

    def release(self) -> None:
        """Restore the base model."""
        for path in self.correction.corrected_paths:
            self._replace(path, self._base[0].get_submodule(path).linear)
        if self._recomputes:
            self._base[0].gradient_checkpointing_disable()
            self._base[0].disable_input_require_grads()
            self._base[0].eval()

    def _replace(self, path: str, module: nn.Module) -> None:
        parent, _, name = path.rpartition(".")
        setattr(self._base[0].get_submodule(parent), name, module)

    def forward(self, merge_index: torch.Tensor | None = None, **inputs: Any) -> Any:
        """The base model's output. `merge_index` (batch) selects one of the correction's merges for each example."""
        if merge_index is not None:
            self.correction.choose(merge_index)
        return self._base[0](**inputs)

    def gradient_checkpointing_enable(self, **options: Any) -> None:
        """Called by the Trainer. Checkpointing needs training mode, which does not reach the unregistered base by itself."""
        self._base[0].train()
        # The call below adds a hook to the embeddings. If it were added twice, only the last hook could be removed.
        self._base[0].disable_input_require_grads()
        self._base[0].gradient_checkpointing_enable(**options)
        self._recomputes = True
