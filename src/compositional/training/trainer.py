"""The training loop: transformers' Trainer with our batches, the loss on targets, and resuming from the last full checkpoint."""

from __future__ import annotations

import json
import logging
import os
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from tqdm import tqdm
from transformers import ProgressCallback, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from compositional.core.errors import UserError, first_line
from compositional.core.files import hash_of_files, write_json
from compositional.core.processes import process_count
from compositional.models.chat import IGNORED, TrainingSequence
from compositional.training import OptimizationSettings, TrainingFolders, TrainingReport
from compositional.training.batching import (
    Collator,
    EffectiveBatchSampler,
    device_batches,
    per_process,
    with_filler,
)
from compositional.training.compilation import AUTO, ON, compiled_layers, is_worthwhile, missing_compiler

logger = logging.getLogger(__name__)

Penalty = Callable[[], torch.Tensor]
Loss = Callable[..., torch.Tensor]


def train_parameters(
    model: nn.Module,
    base: nn.Module,
    sequences: list[TrainingSequence],
    pad_token_id: int,
    settings: OptimizationSettings,
    folders: TrainingFolders,
    description: str,
    penalty: Penalty | None = None,
    loss: Loss | None = None,
) -> TrainingReport:
    """Train the parameters of `model` that require gradients, in place; resumes from the last complete checkpoint.

    `base` is the transformers model inside `model`, whose layers may be compiled. `penalty` is added to the loss of each update.
    `loss` takes what `target_loss`, the default, takes.
    """
    start = time.monotonic()
    os.environ["TENSORBOARD_LOGGING_DIR"] = str(folders.logs)
    trainer = make_trainer(model, sequences, pad_token_id, settings, folders, description, penalty, loss)
    compiles = _compiles(base, sequences, settings)
    with compiled_layers(base) if compiles else nullcontext():
        result = trainer.train(resume_from_checkpoint=last_whole_checkpoint(folders.checkpoints))
    losses = [(entry["step"], float(entry["loss"])) for entry in trainer.state.log_history if "loss" in entry]
    return TrainingReport(
        updates=result.global_step,
        examples=len(sequences),
        first_loss=losses[0][1] if losses else None,
        last_loss=losses[-1][1] if losses else None,
        seconds=time.monotonic() - start,
        losses=losses,
        precision=str(settings.precision),
        compiled=compiles,
        seconds_per_update=trainer.seconds_per_update,
        padding=trainer.padding,
    )


def _compiles(base: nn.Module, sequences: list[TrainingSequence], settings: OptimizationSettings) -> bool:
    """Whether the base's layers are compiled: if --torch_compile says so, or if it pays back and the machine can do it."""
    if settings.torch_compile != AUTO:
        return settings.torch_compile == ON
    parameters = sum(module.weight.numel() for module in base.modules() if isinstance(module, nn.Linear))
    tokens = round(settings.epochs * sum(len(sequence.ids) for sequence in sequences))
    if not is_worthwhile(parameters, tokens, settings.precision.autocast):
        return False
    if missing := missing_compiler():
        logger.info("not compiled, so an update takes up to twice as long: %s", missing)
    return not missing


def make_trainer(
    model: nn.Module,
    sequences: list[TrainingSequence],
    pad_token_id: int,
    settings: OptimizationSettings,
    folders: TrainingFolders,
    description: str,
    penalty: Penalty | None = None,
    loss: Loss | None = None,
) -> TargetLossTrainer:
    """transformers' Trainer with our batches, loss and progress bar."""
    trainer = TargetLossTrainer(
        settings=settings,
        model=model,
        args=training_arguments(settings, folders),
        train_dataset=with_filler(sequences, process_count()),
        data_collator=Collator(pad_token_id),
        compute_loss_func=partial(_with_penalty, loss or target_loss, penalty),
    )
    trainer.pop_callback(ProgressCallback)
    trainer.add_callback(LossBar(description))
    trainer.add_callback(CheckpointHashes())
    return trainer


def check_trainer_takes(settings: OptimizationSettings) -> None:
    """Raise UserError when the Trainer refuses the settings. A Trainer is built, with optimizer and schedule, to find out."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            trainer = make_trainer(nn.Linear(1, 1), [], 0, settings, TrainingFolders(Path(folder), Path(folder)), "")
            trainer.create_optimizer_and_scheduler(num_training_steps=1)
        except (ValueError, TypeError, ImportError, RuntimeError) as error:
            raise UserError(f"transformers' Trainer does not take these settings: {first_line(error)}") from error


def target_loss(outputs: Any, labels: torch.Tensor, num_items_in_batch: torch.Tensor | None = None) -> torch.Tensor:
    """Cross-entropy summed over target tokens, divided by the number of target tokens in the entire update.

    Args:
        outputs: a model's output, with logits (batch × kept positions × vocabulary) of the last positions.
        labels: (batch × length), IGNORED at positions without loss; they are shifted here.
    """
    logits = outputs.logits[:, :-1].float()
    targets = labels[:, labels.shape[1] - logits.shape[1] :]
    total = functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="sum")
    return total / (num_items_in_batch if num_items_in_batch is not None else (targets != IGNORED).sum())


def _with_penalty(
    loss: Loss, penalty: Penalty | None, outputs: Any, labels: torch.Tensor, num_items_in_batch: torch.Tensor | None = None
) -> torch.Tensor:
    """The penalty counts once per update, however many batches are accumulated: each has its share, by target tokens."""
    found = loss(outputs, labels, num_items_in_batch)
    if not penalty:
        return found
    share = 1.0 if num_items_in_batch is None else (labels[:, 1:] != IGNORED).sum() / num_items_in_batch
    return found + share * penalty()


class TargetLossTrainer(Trainer):
    """A Trainer whose updates consist of the examples that `EffectiveBatchSampler` selects, split to fit on the device."""

    def __init__(self, settings: OptimizationSettings, **options: Any) -> None:
        super().__init__(**options)
        self.settings = settings
        self._tokens = self._padded_tokens = 0
        self._starts: list[float] = []

    @property
    def seconds_per_update(self) -> float | None:
        """The median time from the start of an update to that of the next; None for a single update."""
        return median(after - before for before, after in pairwise(self._starts)) if len(self._starts) > 1 else None

    @property
    def padding(self) -> float | None:
        """The share of padding among the tokens processed so far."""
        return 1 - self._tokens / self._padded_tokens if self._padded_tokens else None

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        """The loss of an update (or of this process's part of it), whose gradients are added up batch by batch."""
        self._starts.append(time.monotonic())
        parts = device_batches(inputs, self.settings.device_batch_tokens, self.settings.device_batch_size)
        self._tokens += int(inputs["attention_mask"].sum())
        self._padded_tokens += sum(part["input_ids"].numel() for part in parts)
        losses = []
        for number, part in enumerate(parts, start=1):
            # Processes exchange their gradients once per update.
            with self.accelerator.no_sync(model) if number < len(parts) else nullcontext():
                losses.append(super().training_step(model, part, num_items_in_batch))
        return torch.stack(losses).sum()

    def _get_train_sampler(self, train_dataset: list[TrainingSequence] | None = None) -> EffectiveBatchSampler:
        sequences = train_dataset if train_dataset is not None else self.train_dataset
        settings, processes = self.settings, process_count()
        lengths = [len(sequence.ids) for sequence in (sequences if processes == 1 else sequences[:-1])]
        return EffectiveBatchSampler(lengths, settings.effective_batch_size, settings.data_seed, processes)


class LossBar(TrainerCallback):
    """A progress bar over updates with the latest loss."""

    def __init__(self, description: str) -> None:
        self.description = description
        self.bar: tqdm | None = None

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Start the bar where the training starts or resumes."""
        if state.is_world_process_zero:
            self.bar = tqdm(total=state.max_steps, initial=state.global_step, desc=self.description, unit="update", mininterval=1)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Move the bar by an update."""
        if self.bar:
            self.bar.update(state.global_step - self.bar.n)

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Show the latest loss."""
        logger.debug("update %d: %s", state.global_step, kwargs.get("logs"))
        if self.bar and "loss" in kwargs.get("logs", {}):
            self.bar.set_postfix(loss=f"{float(kwargs['logs']['loss']):.3f}", refresh=False)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Close the bar."""
        if self.bar:
            self.bar.close()


_HASHES_FILE = "hashes.json"


class CheckpointHashes(TrainerCallback):
    """Writes the SHA-256 of a checkpoint's files into it, so that a damaged checkpoint is not resumed from."""

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Called when the Trainer has written a checkpoint."""
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        if state.is_world_process_zero:
            write_json(folder / _HASHES_FILE, {path.name: hash_of_files([path]) for path in sorted(folder.iterdir())})


def last_whole_checkpoint(folder: Path) -> str | None:
    """The newest checkpoint whose files are as they were written, trainer_state.json as the last; None when there is none."""
    checkpoints = [path.parent for path in folder.glob("checkpoint-*/trainer_state.json")]
    complete = [path for path in checkpoints if _is_json(path / "trainer_state.json") and _is_unchanged(path)]
    return str(max(complete, key=lambda path: int(path.name.rsplit("-", 1)[1]))) if complete else None


def _is_unchanged(checkpoint: Path) -> bool:
    """Whether the files are those of the hashes; a checkpoint of an earlier version has none."""
    if not (path := checkpoint / _HASHES_FILE).is_file():
        return True
    try:
        hashes = json.loads(path.read_text())
        unchanged = all(hash_of_files([checkpoint / name]) == found for name, found in hashes.items())
    except (ValueError, AttributeError, FileNotFoundError):
        unchanged = False
    if not unchanged:
        logger.warning("%s is damaged and is not resumed from", checkpoint)
    return unchanged


def _is_json(path: Path) -> bool:
    try:
        json.loads(path.read_text())
    except ValueError:
        return False
    return True


def training_arguments(settings: OptimizationSettings, folders: TrainingFolders) -> TrainingArguments:
    """Our settings, and the user's own, for transformers' Trainer."""
    on_gpu = torch.cuda.is_available()
    ours = {
        "output_dir": str(folders.checkpoints),
        "learning_rate": settings.learning_rate,
        "num_train_epochs": settings.epochs,
        "per_device_train_batch_size": per_process(settings.effective_batch_size, process_count()),
        "lr_scheduler_type": settings.lr_scheduler_type,
        "warmup_steps": settings.warmup_steps,
        "bf16": settings.precision.autocast,
        "gradient_checkpointing": settings.gradient_checkpointing,
        "seed": settings.seed,
        "save_strategy": "steps",
        "save_steps": settings.save_steps,
        "save_total_limit": 2,
        "logging_steps": 10,
        "logging_first_step": True,
        "report_to": settings.report_to,
        "remove_unused_columns": False,
        "use_cpu": not on_gpu,
        "average_tokens_across_devices": True,
    }
    arguments = TrainingArguments(**(ours | settings.trainer))
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1  # one GPU per process: `accelerate launch` uses several, DataParallel is not used
    return arguments
