"""The examples of each update, their order, and their conversion to tensors.

An update's examples depend only on seed and effective batch size. Within an update they are sorted by length, so that device
batches have examples of similar length. The device batch size changes speed and memory, not the update.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import Any

import torch
from torch.utils.data import Sampler

from compositional.models.chat import IGNORED, TrainingSequence, left_padded


def accumulation(effective_batch_size: int, device_batch_size: int | None, on_gpu: bool, processes: int) -> tuple[int, int]:
    """Device batch size and accumulation steps whose product over all processes is the effective batch size.

    The device batch is the largest divisor that does not exceed the requested size (default: 8 on a GPU, 16 on a CPU).
    """
    if effective_batch_size % processes:
        raise ValueError(f"{effective_batch_size} examples per update can't be shared by {processes} processes")
    per_process = effective_batch_size // processes
    limit = min(device_batch_size or (8 if on_gpu else 16), per_process)
    device_batch = next(size for size in range(limit, 0, -1) if per_process % size == 0)
    return device_batch, per_process // device_batch


class EffectiveBatchSampler(Sampler[int]):
    """Indices for each epoch: shuffled, split into effective batches, and sorted by length within each, longest first."""

    def __init__(self, lengths: list[int], effective_batch_size: int, seed: int) -> None:
        self.lengths = lengths
        self.effective_batch_size = effective_batch_size
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by the Trainer before each epoch. Each epoch has its own order."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        order = list(range(len(self.lengths)))
        Random(f"{self.seed}/{self.epoch}").shuffle(order)
        for start in range(0, len(order), self.effective_batch_size):
            batch = order[start : start + self.effective_batch_size]
            yield from sorted(batch, key=lambda index: (-self.lengths[index], index))


class Collator:
    """Converts training sequences to left-padded tensors, with their `merge_index` if they have one.

    With `logits_to_keep`, the model computes logits only for the last tokens: the longest target of the batch, and one before it.
    """

    def __init__(self, pad_token_id: int) -> None:
        self.pad_token_id = pad_token_id

    def __call__(self, sequences: list[TrainingSequence]) -> dict[str, Any]:
        ids = torch.tensor(left_padded([sequence.ids for sequence in sequences], self.pad_token_id))
        labels = torch.tensor(left_padded([sequence.labels for sequence in sequences], IGNORED))
        mask = torch.tensor(left_padded([[1] * len(sequence.ids) for sequence in sequences], 0))
        longest_target = max(sequence.target_length for sequence in sequences)
        merges = [sequence.merge_index for sequence in sequences]
        return ({} if None in merges else {"merge_index": torch.tensor(merges)}) | {
            "input_ids": ids,
            "attention_mask": mask,
            "position_ids": (mask.cumsum(dim=1) - 1).clamp(min=0),
            "labels": labels,
            "logits_to_keep": min(longest_target + 1, ids.shape[1]),
        }
