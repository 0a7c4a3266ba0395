"""The examples of each update, their order, and their conversion to tensors.

An update's examples depend only on seed and effective batch size: several processes that can't share the last one of an epoch
equally fill it up with an example without labels. Within an update they are sorted by length and split by tokens, so that the
batches on the device have examples of similar length. The split changes speed and memory, not the update.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from random import Random
from typing import Any

import torch
from torch.utils.data import Sampler

from compositional.models.chat import IGNORED, TrainingSequence, left_padded

# Tokens per batch on the device, padding included, unless --device_batch_tokens says otherwise.
_TOKENS_ON_CPU, _TOKENS_ON_GPU = 2048, 8192


def per_process(effective_batch_size: int, processes: int) -> int:
    """Examples of an update that each process has; raises ValueError when they can't be shared equally."""
    if effective_batch_size % processes:
        raise ValueError(f"{effective_batch_size} examples per update can't be shared by {processes} processes")
    return effective_batch_size // processes


def with_filler(sequences: list[TrainingSequence], processes: int) -> list[TrainingSequence]:
    """The sequences of a training, and for several processes one more, without labels: the last index of the sampler."""
    if processes == 1 or not sequences:
        return sequences
    return [*sequences, replace(sequences[0], ids=sequences[0].ids[:1], labels=[IGNORED])]


def device_batches(batch: dict[str, Any], max_tokens: int | None, max_examples: int | None) -> list[dict[str, Any]]:
    """Split a collated batch into parts of at most `max_tokens` tokens, padding included, and `max_examples` examples.

    None stands for this device's default number of tokens, and for any number of examples.
    The examples are left-padded and sorted by length, longest first, so each part is cut to its own longest example. An example
    that is longer than `max_tokens` is a part of its own.
    """
    max_tokens = max_tokens or (_TOKENS_ON_GPU if torch.cuda.is_available() else _TOKENS_ON_CPU)
    lengths = batch["attention_mask"].sum(dim=1).tolist()
    parts, start = [], 0
    while start < len(lengths):
        longest = max(lengths[start:])
        size = max(1, min(max_tokens // longest, max_examples or len(lengths)))
        end = min(start + size, len(lengths))
        parts.append(_part(batch, start, end, longest))
        start = end
    return parts


def _part(batch: dict[str, Any], start: int, end: int, length: int) -> dict[str, Any]:
    """Examples start to end, and their last `length` tokens, with as many logits as their targets need."""
    part = {
        name: value[start:end] if name == "merge_index" else value[start:end, -length:]
        for name, value in batch.items()
        if isinstance(value, torch.Tensor)
    }
    targets = (part["labels"] != IGNORED).any(dim=0).nonzero()
    return part | {"logits_to_keep": min(length - int(targets[0]) + 1, length) if len(targets) else 1}


class EffectiveBatchSampler(Sampler[int]):
    """Indices for each epoch: shuffled, split into effective batches, and sorted by length within each, longest first.

    An effective batch is dealt out to `processes`, so that each has examples of all lengths: those of the first come first. Where
    several have fewer than their share, the index len(lengths) stands for the missing ones; see `with_filler`.
    """

    def __init__(self, lengths: list[int], effective_batch_size: int, seed: int, processes: int = 1) -> None:
        self.lengths = lengths
        self.effective_batch_size = effective_batch_size
        self.seed = seed
        self.processes = processes
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by the Trainer before each epoch. Each epoch has its own order."""
        self.epoch = epoch

    def __len__(self) -> int:
        count, size = len(self.lengths), self.effective_batch_size
        return count if self.processes == 1 else -(-count // size) * size

    def __iter__(self) -> Iterator[int]:
        order = list(range(len(self.lengths)))
        Random(f"{self.seed}/{self.epoch}").shuffle(order)
        for start in range(0, len(order), self.effective_batch_size):
            batch = order[start : start + self.effective_batch_size]
            by_length = sorted(batch, key=lambda index: (-self.lengths[index], index))
            for process in range(self.processes):
                yield from (share := by_length[process :: self.processes])
                if self.processes > 1:
                    yield from [len(self.lengths)] * (self.effective_batch_size // self.processes - len(share))


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
