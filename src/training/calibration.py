"""Training a calibration of merged adapters: the merges stay frozen, the calibration alone is trained."""

from __future__ import annotations

import torch
from torch import nn
from transformers import PreTrainedModel, set_seed

from src.adapters.lora import LoraAdapter
from src.adapters.updates import AdapterUpdates
from src.calibration import CalibrationSpec
from src.calibration.model import CorrectedModel, fold_adapter
from src.calibration.parameters import Calibration
from src.encoding import TrainingSequence
from src.training import OptimizationSettings, TrainingFolders, TrainingReport
from src.training.trainer import train_parameters


class SharedCorrection(nn.Module):
    """Several merges beside a frozen base, each for its own examples, and one calibration that all of them share."""

    def __init__(self, merges: list[LoraAdapter], calibration: Calibration) -> None:
        super().__init__()
        self.updates = AdapterUpdates(merges, [1.0] * len(merges))
        self.calibration = calibration

    @property
    def corrected_paths(self) -> list[str]:
        return self.updates.corrected_paths

    def choose(self, merge_index: torch.Tensor) -> None:
        self.updates.choose(merge_index)

    def correction(self, module_path: str, x: torch.Tensor) -> torch.Tensor:
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
    """Train LC or LC++ on compositional examples. `model` is left with the merge in it.

    One merge is folded into the model's weights, so that a step costs what the base model's does. Of several, each sequence
    goes through the one that its `merge_index` names.
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
