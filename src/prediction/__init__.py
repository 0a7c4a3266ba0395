"""Prediction: greedy answers of a base model, with or without an adapter, to prompts."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PredictionSettings:
    """How answers are generated. Lengths are in tokens; `gpu_memory_utilization` and `tensor_parallel_size` are vLLM's."""

    backend: str
    max_new_tokens: int
    max_prompt_length: int
    batch_size: int
    dtype: str
    gpu_memory_utilization: float = 0.9
    tensor_parallel_size: int = 1


@dataclass(frozen=True)
class Answer:
    """A generated text; `cut_off` when it reached the limit of new tokens without an end."""

    text: str
    cut_off: bool


@dataclass(frozen=True)
class Prediction:
    """One line of a predictions file. `intermediate` is the output of the step before the last, where there are several."""

    id: str
    input: str
    reference: str
    output: str
    prompt_truncated: bool
    output_cut_off: bool
    intermediate: str | None = None
