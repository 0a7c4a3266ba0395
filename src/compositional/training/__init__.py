"""Training of adapters and calibrations with transformers' Trainer."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from compositional.training.precision import Precision


@dataclass(frozen=True)
class OptimizationSettings:
    """How parameters are trained. Each update uses `effective_batch_size` examples, in batches that fit on the device.

    A batch on the device has at most `device_batch_tokens` tokens, padding included, and `device_batch_size` examples; None
    stands for this device's default, and for any number of examples.
    """

    learning_rate: float
    epochs: float
    effective_batch_size: int
    device_batch_size: int | None
    device_batch_tokens: int | None
    lr_scheduler_type: str
    warmup_steps: int
    precision: Precision
    torch_compile: str
    gradient_checkpointing: bool
    seed: int
    data_seed: int
    save_steps: int
    report_to: list[str]
    trainer: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class LoraSettings:
    """The shape of a LoRA adapter."""

    rank: int
    alpha: int
    dropout: float
    target_modules: list[str]


@dataclass(frozen=True)
class TrainingReport:
    """A summary of a training run. `losses` are (update, mean loss since the previous entry), in nats per target token.

    `precision` and `compiled` say how it was trained on this device, and `seconds_per_update` (median) how fast. `padding` is
    the share of padding among all tokens that the device has processed. They are empty when nothing was trained.
    """

    updates: int
    examples: int
    first_loss: float | None
    last_loss: float | None
    seconds: float
    losses: list[tuple[int, float]] = field(default_factory=list)
    precision: str = ""
    compiled: bool = False
    seconds_per_update: float | None = None
    padding: float | None = None


@dataclass(frozen=True)
class TrainingFolders:
    """The folders of checkpoints and TensorBoard events."""

    checkpoints: Path
    logs: Path
