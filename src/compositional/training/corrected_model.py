"""A frozen model with a merge folded into its weights, or beside them, and a correction on top, as it is trained."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from compositional.adapters.lora import LoraAdapter
from compositional.adapters.updates import Correction


def fold_adapter(model: nn.Module, adapter: LoraAdapter) -> None:
    """Add ΔW to the weight of each updated linear module, in place."""
    modules = dict(model.named_modules())
    with torch.no_grad():
        for path, factors in adapter.factors.items():
            weight = modules[path].weight
            weight.add_(factors.delta().to(weight))


class CorrectedModel(nn.Module):
    """A frozen base whose linear modules add a correction (an nn.Module) to their outputs, until `release` is called.

    The base is not a registered submodule: parameters and checkpoints of this module are the correction's alone.
    """

    def __init__(self, base: nn.Module, correction: Correction) -> None:
        super().__init__()
        self.correction = correction
        self.config = base.config
        self._base = (base.requires_grad_(False),)
        modules = dict(base.named_modules())
        self._recomputes = False
        self._hooks = [modules[path].register_forward_hook(self._corrector(path)) for path in correction.corrected_paths]

    def release(self) -> None:
        """Leave the base as it was."""
        for hook in self._hooks:
            hook.remove()
        if self._recomputes:
            self._base[0].gradient_checkpointing_disable()
            self._base[0].disable_input_require_grads()
            self._base[0].eval()

    def _corrector(self, path: str) -> Any:
        def add_correction(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
            return output + self.correction.correction(path, inputs[0]).to(output.dtype)

        return add_correction

    def forward(self, merge_index: torch.Tensor | None = None, **inputs: Any) -> Any:
        """The base's output. `merge_index` (batch) says which of a correction's merges each example goes through."""
        if merge_index is not None:
            self.correction.choose(merge_index)
        return self._base[0](**inputs)

    def gradient_checkpointing_enable(self, **options: Any) -> None:
        """Called by the Trainer. Checkpointing works in training mode only, which the hidden base is not told of otherwise."""
        self._base[0].train()
        # It makes the embeddings' outputs require gradients; of the hooks of two calls, only the last could be taken off again.
        self._base[0].disable_input_require_grads()
        self._base[0].gradient_checkpointing_enable(**options)
        self._recomputes = True
