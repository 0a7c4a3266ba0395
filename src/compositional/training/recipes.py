"""Training of a LoRA adapter, of a calibration of merged adapters, and of the parameters of a merge.

The latter two add corrections to the outputs of the linear modules of a frozen model.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import PreTrainedModel, set_seed

from compositional.adapters.lora import LoraAdapter, LoraFactors
from compositional.adapters.updates import AdapterUpdates, Correction
from compositional.calibration import CalibrationSpec
from compositional.calibration.parameters import Calibration
from compositional.models.chat import IGNORED, TrainingSequence
from compositional.training import LoraSettings, OptimizationSettings, TrainingFolders, TrainingReport
from compositional.training.batching import Collator
from compositional.training.trainer import Penalty, target_loss, train_parameters

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def train_lora(
    model: PreTrainedModel,
    base_model: str,
    sequences: list[TrainingSequence],
    pad_token_id: int,
    lora: LoraSettings,
    settings: OptimizationSettings,
    folders: TrainingFolders,
    description: str,
) -> tuple[LoraAdapter, TrainingReport]:
    """Train an adapter on a frozen base model. The adapter's modules remain in `model`."""
    set_seed(settings.seed)
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora.target_modules,
        task_type="CAUSAL_LM",
    )
    peft_model = get_peft_model(model, config)
    if settings.gradient_checkpointing:
        peft_model.enable_input_require_grads()
    report = train_parameters(peft_model, sequences, pad_token_id, settings, folders, description)
    return adapter_in(peft_model, base_model), report


def adapter_in(peft_model: PreTrainedModel, base_model: str) -> LoraAdapter:
    """The tensors of a PEFT model's active adapter, on the CPU."""
    factors = {}
    for path, module in peft_model.get_base_model().named_modules():
        if hasattr(module, "lora_A") and "default" in module.lora_A:
            A, B = module.lora_A["default"].weight, module.lora_B["default"].weight
            factors[path] = LoraFactors(A.detach().cpu(), B.detach().cpu(), module.scaling["default"])
    return LoraAdapter("", base_model, factors)


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

    def correction(self, module_path: str, x: torch.Tensor) -> torch.Tensor:
        """The merge's update and the calibration's correction (..., d_out) for x (..., d_in)."""
        update = self.updates.correction(module_path, x)
        calibrated = module_path in self.calibration.component_of_module
        return update + self.calibration.correction(module_path, x) if calibrated else update


def train_calibration(
    model: PreTrainedModel,
    merges: list[LoraAdapter],
    spec: CalibrationSpec,
    sequences: list[TrainingSequence],
    pad_token_id: int,
    settings: OptimizationSettings,
    folders: TrainingFolders,
    description: str,
) -> tuple[Calibration, TrainingReport]:
    """Train LC or LC++ on compositional examples. `model` keeps the merge afterwards.

    A single merge is folded into the model's weights, so that a step costs as much as with the base model. With several merges,
    the `merge_index` of each sequence selects one.
    """
    set_seed(settings.seed)
    shapes = {path: (factors.d_out, factors.d_in) for merged in merges for path, factors in merged.factors.items()}
    calibration = Calibration(spec, shapes, settings.seed)
    if len(merges) == 1:
        fold_adapter(model, merges[0])
        corrected = CorrectedModel(model, calibration)
    else:
        corrected = CorrectedModel(model, SharedCorrection(merges, calibration))
    report = train_parameters(corrected, sequences, pad_token_id, settings, folders, description)
    return calibration.cpu(), report


@dataclass(frozen=True)
class MergeExamples:
    """Examples of the compositional task, a frozen base model, and how to train on them.

    A `correction` is an nn.Module that adds terms to the outputs of linear modules, such as
    `compositional.adapters.updates.AdapterUpdates`. The model is unchanged afterwards.
    """

    model: PreTrainedModel
    sequences: list[TrainingSequence]
    pad_token_id: int
    settings: OptimizationSettings
    folders: TrainingFolders
    description: str

    @torch.no_grad()
    def loss(self, correction: Correction) -> float:
        """Mean cross-entropy of the target tokens, in nats, for the model with a correction."""
        corrected = CorrectedModel(self.model, correction).to(self.model.device)
        self.model.eval()
        try:
            total, tokens = 0.0, 0
            for batch in self._batches():
                labels = batch.pop("labels")
                count = (labels != IGNORED).sum().item()
                total += target_loss(corrected(**batch), labels).item() * count
                tokens += count
            return total / tokens
        finally:
            corrected.release()

    def train(self, correction: Correction, learning_rate: float, epochs: float, penalty: Penalty | None = None) -> TrainingReport:
        """Train a correction's parameters in place; resumes from checkpoints. `penalty` is added to the loss of each update."""
        corrected = CorrectedModel(self.model, correction)
        settings = replace(self.settings, learning_rate=learning_rate, epochs=epochs)
        try:
            return train_parameters(
                corrected, self.sequences, self.pad_token_id, settings, self.folders, self.description, penalty=penalty
            )
        finally:
            corrected.release()

    def _batches(self) -> list[dict[str, torch.Tensor]]:
        """The same batches in each call, the longest sequences first."""
        collate, size = Collator(self.pad_token_id), self.settings.device_batch_size or 16
        ordered = sorted(self.sequences, key=lambda sequence: -len(sequence.ids))
        batches = [collate(ordered[start : start + size]) for start in range(0, len(ordered), size)]
        return [
            {name: value.to(self.model.device) if isinstance(value, torch.Tensor) else value for name, value in batch.items()}
            for batch in batches
        ]


class NoExamples:
    """Replaces `MergeExamples` when a merge is only checked: the loss is constant and nothing is trained."""

    def loss(self, correction: Correction) -> float:
        """Zero for every correction."""
        return 0.0

    def train(self, correction: Correction, learning_rate: float, epochs: float, penalty: Penalty | None = None) -> TrainingReport:
        """Train nothing; returns an empty report."""
        return TrainingReport(updates=0, examples=0, first_loss=None, last_loss=None, seconds=0.0)


def fold_adapter(model: nn.Module, adapter: LoraAdapter) -> None:
    """Add ΔW to the weight of each updated linear module, in place."""
    modules = dict(model.named_modules())
    with torch.no_grad():
        for path, factors in adapter.factors.items():
            weight = modules[path].weight
            weight.add_(factors.delta().to(weight))


class CorrectedModel(nn.Module):
    """A frozen base model whose linear modules add a correction (an nn.Module) to their outputs, until `release` is called.

    The base is not a registered submodule: this module's parameters and checkpoints are only those of the correction.
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
        """Restore the base model."""
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
