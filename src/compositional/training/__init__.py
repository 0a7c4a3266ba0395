"""Training of adapters and calibrations with transformers' Trainer."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class OptimizationSettings:
    """How parameters are trained. Each update uses `effective_batch_size` examples, whatever the batch size on the device."""

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
    """A summary of a training run. `losses` are (update, mean loss since the previous entry), in nats per target token.

    `precision` is the precision used, which may differ from the requested one; empty when nothing was trained.
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
    """The folders of checkpoints and TensorBoard events."""

    checkpoints: Path
    logs: Path
