"""Greedy generation with vLLM, and the engine shared by the experiments of a process."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from compositional.adapters.peft_folder import StoredAdapter
from compositional.models.model import Model
from compositional.prediction import Answer, AnswerReader, PredictionSettings
from compositional.prediction.vllm_engine import EngineSettings, VllmEngine

if TYPE_CHECKING:
    from types import TracebackType


class Engines:
    """Starts an engine on demand and keeps it for later experiments with the same requirements. At most one engine runs.

    Args:
        highest_rank: the highest rank of later adapters, so that an engine started for a smaller rank supports them, too.
    """

    def __init__(self, highest_rank: int = 0) -> None:
        self.started = 0
        self._highest_rank = highest_rank
        self._engine: VllmEngine | None = None
        self._key: tuple[str, EngineSettings] | None = None

    def engine(self, base: Model, settings: EngineSettings, adapter: StoredAdapter | None, log_path: Path) -> VllmEngine:
        """An engine that serves a model with an adapter. Raises UserError when vLLM can't start.

        On a CPU, every engine can serve a calibration's biases; on a GPU only those that are started for one, as biases cost time.
        """
        import torch

        key = (base.location, settings)
        rank = max(adapter.rank if adapter else 0, self._highest_rank)
        has_biases = bool(adapter and adapter.has_biases)
        if self._engine and (self._key != key or not self._fits(self._engine, rank, has_biases)):
            self.close()
        if not self._engine:
            gc.collect()
            if torch.cuda.is_initialized():
                torch.cuda.empty_cache()
            on_gpu = torch.cuda.is_available()
            # vLLM compiles no model with LoRA on a CPU.
            self._engine = VllmEngine(
                base.location, base.commit, settings, rank, has_biases or not on_gpu, eager=not on_gpu, log_path=log_path
            )
            self._key = key
            self.started += 1
        return self._engine

    def expect_rank(self, rank: int) -> None:
        """Announce an adapter of this rank: engines started from now on support it."""
        self._highest_rank = max(rank, self._highest_rank)

    @staticmethod
    def _fits(engine: VllmEngine, rank: int, has_biases: bool) -> bool:
        return not engine.is_dead and engine.highest_rank >= rank and (engine.has_biases or not has_biases)

    def make_room(self) -> None:
        """On a GPU, end the engine to free its memory for something else."""
        import torch

        if torch.cuda.is_available():
            self.close()

    def close(self) -> None:
        """End the engine, if there is one, and free its memory."""
        if self._engine:
            self._engine.shutdown()
        self._engine = self._key = None

    def __enter__(self) -> Engines:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class VllmGenerator:
    """A base model with an adapter (or none), served by a shared engine, that answers prompts."""

    made_with: ClassVar[dict[str, Any]] = {}

    def __init__(
        self, base: Model, adapter: StoredAdapter | None, settings: PredictionSettings, engines: Engines, log_path: Path
    ) -> None:
        self._reader = AnswerReader(base, base.tokenizer)
        self._adapter = adapter
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
    """The engine that predictions with these settings need."""
    return EngineSettings(
        dtype=settings.dtype,
        max_model_len=settings.longest_request,
        gpu_memory_utilization=settings.gpu_memory_utilization,
        tensor_parallel_size=settings.tensor_parallel_size,
    )
