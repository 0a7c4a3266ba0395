"""The examples that a merge learns from, as merge strategies see them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from src.calibration.model import CorrectedModel, Correction
from src.encoding import IGNORED, TrainingSequence
from src.training import OptimizationSettings, TrainingFolders, TrainingReport
from src.training.batching import Collator
from src.training.trainer import Penalty, target_loss, train_parameters

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class MergeExamples:
    """Examples of the compositional task, a frozen base model, and how to train on them.

    A `correction` is an nn.Module that says what is added to the outputs of linear modules, such as
    `src.adapters.updates.AdapterUpdates`. The model is left as it was.
    """

    model: PreTrainedModel
    sequences: list[TrainingSequence]
    pad_token_id: int
    settings: OptimizationSettings
    folders: TrainingFolders
    description: str

    @torch.no_grad()
    def loss(self, correction: Correction) -> float:
        """Mean cross-entropy of the target tokens, in nats, of the model with a correction."""
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
        """Train a correction's parameters in place; resumes like any training. `penalty` is added to each update's loss."""
        corrected = CorrectedModel(self.model, correction)
        settings = replace(self.settings, learning_rate=learning_rate, epochs=epochs)
        try:
            return train_parameters(
                corrected, self.sequences, self.pad_token_id, settings, self.folders, self.description, penalty=penalty
            )
        finally:
            corrected.release()

    def _batches(self) -> list[dict[str, torch.Tensor]]:
        """Of equal content in each call, the longest sequences first."""
        collate, size = Collator(self.pad_token_id), self.settings.device_batch_size or 16
        ordered = sorted(self.sequences, key=lambda sequence: -len(sequence.ids))
        batches = [collate(ordered[start : start + size]) for start in range(0, len(ordered), size)]
        return [
            {name: value.to(self.model.device) if isinstance(value, torch.Tensor) else value for name, value in batch.items()}
            for batch in batches
        ]


class NoExamples:
    """In place of `MergeExamples` where a merge is only tried for what it takes: all costs the same, nothing is learned."""

    def loss(self, correction: Correction) -> float:
        return 0.0

    def train(self, correction: Correction, learning_rate: float, epochs: float, penalty: Penalty | None = None) -> TrainingReport:
        return TrainingReport(updates=0, examples=0, first_loss=None, last_loss=None, seconds=0.0)
