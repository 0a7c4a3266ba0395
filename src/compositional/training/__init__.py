"""Training of adapters and calibrations on transformers' Trainer."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class OptimizationSettings:
    """How parameters are trained. `effective_batch_size` examples make one update, whatever goes through a device at a time."""

    learning_rate: float
    epochs: float
    effective_batch_size: int
    device_batch_size: int | None
    lr_scheduler_type: str
    warmup_steps: int
    bf16: bool
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
    """What a training run did. `losses` are updates with the mean loss since the one before, in nats per target token.

    `precision` is the one that was used, which can be another than was requested; empty when nothing was trained.
    """

    updates: int
    examples: int
    first_loss: float | None
    last_loss: float | None
    seconds: float
    losses: list[tuple[int, float]] = field(default_factory=list)
    precision: str = ""


@dataclass(frozen=True)
class TrainingFolders:
    """Where checkpoints and TensorBoard events go."""

    checkpoints: Path
    logs: Path
