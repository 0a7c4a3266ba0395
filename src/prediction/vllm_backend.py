"""Greedy generation with vLLM."""

from __future__ import annotations

from pathlib import Path

from src.engine import EngineSettings, ServedAdapter
from src.engine.pool import Engines
from src.models import BaseModel
from src.prediction import Answer, PredictionSettings
from src.prediction.answers import AnswerReader


class VllmGenerator:
    """A base model with an adapter (or none), served by a shared engine, that answers prompts."""

    def __init__(
        self, base: BaseModel, adapter: Path | None, settings: PredictionSettings, engines: Engines, log_path: Path
    ) -> None:
        self._reader = AnswerReader(base, base.tokenizer())
        self._adapter = ServedAdapter.read(adapter) if adapter else None
        self._engine = engines.engine(base, engine_settings(settings), self._adapter, log_path)
        self._max_new_tokens = settings.max_new_tokens

    def answers(self, prompts: list[list[int]]) -> list[Answer]:
        """Answers to prompts (token ids), in their order."""
        from vllm import SamplingParams

        greedy = SamplingParams(
            temperature=0, max_tokens=self._max_new_tokens, stop_token_ids=self._reader.end_tokens, detokenize=False
        )
        outputs = self._engine.generate(prompts, greedy, self._adapter)
        return [self._reader.read(list(output.token_ids)) for output in outputs]


def engine_settings(settings: PredictionSettings) -> EngineSettings:
    return EngineSettings(
        dtype=settings.dtype,
        max_model_len=settings.max_prompt_length + settings.max_new_tokens,
        gpu_memory_utilization=settings.gpu_memory_utilization,
        tensor_parallel_size=settings.tensor_parallel_size,
    )
