"""Training a calibration of merged adapters: the merge is folded into the frozen base, the calibration alone is trained."""

from __future__ import annotations

from transformers import PreTrainedModel, set_seed

from src.adapters.lora import LoraAdapter
from src.calibration import CalibrationSpec
from src.calibration.model import CalibratedModel, fold_adapter
from src.calibration.parameters import Calibration
from src.encoding import TrainingSequence
from src.training import OptimizationSettings, TrainingFolders, TrainingReport
from src.training.trainer import train_parameters


def train_calibration(
    model: PreTrainedModel,
    merged: LoraAdapter,
    spec: CalibrationSpec,
    sequences: list[TrainingSequence],
    pad_token_id: int,
    settings: OptimizationSettings,
    folders: TrainingFolders,
    description: str,
) -> tuple[Calibration, TrainingReport]:
    """Train LC or LC++ on compositional examples. `model` is left with the merge folded in."""
    set_seed(settings.seed)
    fold_adapter(model, merged)
    shapes = {path: (factors.d_out, factors.d_in) for path, factors in merged.factors.items()}
    calibrated = CalibratedModel(model, Calibration(spec, shapes, settings.seed))
    report = train_parameters(calibrated, sequences, pad_token_id, settings, folders, description)
    return calibrated.calibration.cpu(), report
