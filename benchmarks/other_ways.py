"""Other ways of training, for comparison: how this project trained before, and PEFT with transformers' Trainer."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import nn

from compositional.adapters.lora import LoraAdapter
from compositional.calibration import LC_PLUS_PLUS, CalibrationSpec
from compositional.calibration.parameters import Calibration
from compositional.models.chat import IGNORED, TrainingSequence
from compositional.training import OptimizationSettings, TrainingFolders
from compositional.training.batching import Collator
from compositional.training.corrected import fold_adapter
from compositional.training.trainer import target_loss

MODULES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
RANK = 16


def peft_model(base: Any, dropout: float) -> Any:
    """The base with a new LoRA by PEFT, in training mode."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=RANK, lora_alpha=RANK, lora_dropout=dropout, target_modules=MODULES, task_type="CAUSAL_LM")
    model = get_peft_model(base, config).train()
    model.enable_input_require_grads()
    return model


def calibrated_by_hooks(base: Any, merged: LoraAdapter, seed: int = 0) -> Calibration:
    """A new LC++ that forward hooks add to the base, into which the merge is folded."""
    fold_adapter(base, merged)
    shapes = {path: (one.d_out, one.d_in) for path, one in merged.factors.items()}
    calibration = Calibration(CalibrationSpec(LC_PLUS_PLUS, for_each_component=True), shapes, seed)
    for path in calibration.corrected_paths:
        added = calibration.correction_of(path)
        base.get_submodule(path).register_forward_hook(
            lambda module, inputs, output, added=added: output + added(inputs[0]).to(output.dtype)
        )
    return calibration


def train_earlier(model: Any, trained: nn.Module, sequences: list[TrainingSequence], settings: OptimizationSettings) -> list[float]:
    """As this project trained before: batches of 16 examples, PEFT's own casts, nn.Dropout, nothing compiled.

    Trains the parameters of `trained` in `model`, at a constant learning rate. Returns the times of the start, of the start of each
    update, and of the end.
    """
    parameters = [parameter for parameter in trained.parameters() if parameter.requires_grad]
    device = parameters[0].device.type
    optimizer, collate, times = torch.optim.AdamW(parameters, lr=settings.learning_rate, weight_decay=0.0), Collator(0), []
    times.append(time.monotonic())
    for start in range(0, len(sequences), settings.effective_batch_size):
        times.append(time.monotonic())
        whole = sorted(sequences[start : start + settings.effective_batch_size], key=lambda one: -len(one.ids))
        targets = sum(label != IGNORED for one in whole for label in one.labels)
        for first in range(0, len(whole), 16):
            collated = collate(whole[first : first + 16])
            batch = {name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in collated.items()}
            labels = batch.pop("labels")
            with torch.autocast(device, torch.bfloat16, enabled=settings.precision.autocast):
                loss = target_loss(model(**batch, use_cache=False), labels, targets)
            loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return [*times, time.monotonic()]


def train_with_peft(
    base: Any,
    dropout: float,
    sequences: list[TrainingSequence],
    settings: OptimizationSettings,
    folders: TrainingFolders,
    length: int | None,
) -> list[float]:
    """PEFT and transformers' Trainer in float32, with batches of 8, or of 3 padded to `length` with gradient checkpointing.

    Returns times as `train_earlier` does, those of the updates scaled to as many examples as an update of ours has.
    """
    from transformers import Trainer, TrainingArguments

    rows = [_padded(one, length) for one in sequences]
    at_a_time = 3 if length else 8
    times = [time.monotonic()]

    class Timed(Trainer):
        def training_step(self, *inputs: Any, **more: Any) -> torch.Tensor:
            times.append(time.monotonic())
            return super().training_step(*inputs, **more)

    arguments = TrainingArguments(
        str(folders.checkpoints),
        per_device_train_batch_size=at_a_time,
        num_train_epochs=1,
        learning_rate=settings.learning_rate,
        gradient_checkpointing=bool(length),
        save_strategy="no",
        report_to=["none"],
        use_cpu=not torch.cuda.is_available(),
        max_steps=3 * len(sequences) // settings.effective_batch_size,
        disable_tqdm=True,
    )
    Timed(peft_model(base, dropout), arguments, train_dataset=rows, data_collator=_pad).train()
    times.append(time.monotonic())
    scale = settings.effective_batch_size / at_a_time
    return [times[0], times[1], *(times[1] + scale * (one - times[1]) for one in times[2:])]


def _padded(one: TrainingSequence, length: int | None) -> dict[str, list[int]]:
    missing = max(0, (length or 0) - len(one.ids))
    return {
        "input_ids": [0] * missing + one.ids,
        "labels": [IGNORED] * missing + one.labels,
        "attention_mask": [0] * missing + [1] * len(one.ids),
    }


def _pad(rows: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
    longest = max(len(row["input_ids"]) for row in rows)
    filler = {"input_ids": 0, "labels": IGNORED, "attention_mask": 0}
    return {
        name: torch.tensor([[value] * (longest - len(row[name])) + row[name] for row in rows]) for name, value in filler.items()
    }
