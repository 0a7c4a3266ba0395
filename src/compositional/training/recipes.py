"""Training of a LoRA adapter, of a calibration of merged adapters, and of the parameters of a merge.

The latter two add corrections to the outputs of the linear modules of a frozen model.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from transformers import PreTrainedModel, set_seed

from compositional.adapters.lora import LoraAdapter, LoraFactors, module_type
from compositional.adapters.updates import Correction
from compositional.calibration import CalibrationSpec
from compositional.calibration.parameters import Calibration
from compositional.models.chat import IGNORED, TrainingSequence
from compositional.models.model import linear_modules
from compositional.training import LoraSettings, OptimizationSettings, TrainingFolders, TrainingReport
from compositional.training.batching import Collator, device_batches
from compositional.training.corrected import CorrectedModel, SharedCorrection, fold_adapter
from compositional.training.dropout import drop_by_positions
from compositional.training.imitation import ImitatingModel, TaughtCorrection, imitation_loss
from compositional.training.trainer import Loss, Penalty, target_loss, train_parameters

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
        target_modules=[path for path in linear_modules(model) if module_type(path) in lora.target_modules],
        task_type="CAUSAL_LM",
    )
    peft_model = get_peft_model(model, config)
    for module in peft_model.modules():
        if isinstance(module, LoraLayer):
            # Under autocast, PEFT's own copy of the input to float32 would be copied back to bfloat16 for the product.
            module.cast_input_dtype_enabled = not settings.precision.autocast
    if model.device.type == "cpu":  # a GPU draws masks fast enough
        drop_by_positions(peft_model)
    if settings.gradient_checkpointing:
        peft_model.enable_input_require_grads()
    report = train_parameters(peft_model, model, sequences, pad_token_id, settings, folders, description)
    return adapter_in(peft_model, base_model), report


def adapter_in(peft_model: PreTrainedModel, base_model: str) -> LoraAdapter:
    """The tensors of a PEFT model's active adapter, on the CPU."""
    factors = {}
    for path, module in peft_model.get_base_model().named_modules():
        if hasattr(module, "lora_A") and "default" in module.lora_A:
            A, B = module.lora_A["default"].weight, module.lora_B["default"].weight
            factors[path] = LoraFactors(A.detach().cpu(), B.detach().cpu(), module.scaling["default"])
    return LoraAdapter("", base_model, factors)


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
    """Train LC or LC++ on compositional examples. `model` keeps the merge and the calibration afterwards.

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
    report = train_parameters(corrected, model, sequences, pad_token_id, settings, folders, description)
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
        autocast = torch.autocast(self.model.device.type, torch.bfloat16, enabled=self.settings.precision.autocast)
        try:
            total, tokens = 0.0, 0
            with autocast:
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
        return self._train(CorrectedModel(self.model, correction), learning_rate, epochs, penalty)

    def _train(
        self, corrected: CorrectedModel, learning_rate: float, epochs: float, penalty: Penalty | None, loss: Loss | None = None
    ) -> TrainingReport:
        settings = replace(self.settings, learning_rate=learning_rate, epochs=epochs)
        try:
            return train_parameters(
                corrected, self.model, self.sequences, self.pad_token_id, settings, self.folders, self.description, penalty, loss
            )
        finally:
            corrected.release()

    def _batches(self) -> list[dict[str, Any]]:
        """The same batches in each call, the longest sequences first."""
        device, settings = self.model.device, self.settings
        collated = Collator(self.pad_token_id)(sorted(self.sequences, key=lambda sequence: -len(sequence.ids)))
        batches = device_batches(collated, settings.device_batch_tokens, settings.device_batch_size)
        return [
            {name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in batch.items()}
            for batch in batches
        ]


@dataclass(frozen=True)
class SingleTaskExamples(MergeExamples):
    """Examples of single tasks. The `merge_index` of each sequence is the number of its task's adapter."""

    def imitate(
        self,
        adapters: list[LoraAdapter],
        correction: Correction,
        learning_rate: float,
        epochs: float,
        temperature: float,
        penalty: Penalty | None = None,
    ) -> TrainingReport:
        """Train a correction so that the model answers each example as with its task's adapter; see `imitation_loss`."""
        imitating = ImitatingModel(self.model, TaughtCorrection(correction, adapters))
        return self._train(imitating, learning_rate, epochs, penalty, partial(imitation_loss, temperature=temperature))


class NoExamples:
    """Replaces examples when a merge is only checked: the loss is constant and nothing is trained."""

    def loss(self, correction: Correction) -> float:
        """Zero for every correction."""
        return 0.0

    def train(self, correction: Correction, learning_rate: float, epochs: float, penalty: Penalty | None = None) -> TrainingReport:
        """Train nothing; returns an empty report."""
        return TrainingReport(updates=0, examples=0, first_loss=None, last_loss=None, seconds=0.0)

    def imitate(self, adapters: list[LoraAdapter], correction: Correction, *settings: Any) -> TrainingReport:
        """Train nothing; returns an empty report."""
        return self.train(correction, 0.0, 0.0)
