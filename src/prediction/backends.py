"""The prediction backends: vLLM and transformers."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

from src.errors import UserError
from src.models import BaseModel
from src.prediction import PredictionSettings

if TYPE_CHECKING:
    from src.engine.pool import Engines
    from src.prediction.predict import Generator

VLLM, TRANSFORMERS = "vllm", "transformers"
# vLLM schedules prompts itself, transformers computes them as one batch.
PROMPTS_AT_A_TIME = {VLLM: 512, TRANSFORMERS: 64}


def resolve_backend(asked: str) -> str:
    """The backend that is asked for; "auto" is vLLM where a GPU is, transformers otherwise."""
    import torch

    if asked != "auto":
        return asked
    return VLLM if torch.cuda.is_available() else TRANSFORMERS


def resolve_dtype(asked: str) -> str:
    """The precision that is asked for; "auto" is bfloat16 on a GPU, float32 otherwise."""
    import torch

    if asked != "auto":
        return asked
    return "bfloat16" if torch.cuda.is_available() else "float32"


def check_backend(backend: str, tensor_parallel_size: int) -> None:
    """Raise UserError when a backend can't run on this machine as asked."""
    if backend != VLLM:
        return
    import torch

    if not importlib.util.find_spec("vllm"):
        raise UserError("vLLM is not installed: make environment, or add --prediction_backend transformers")
    gpus = torch.cuda.device_count()
    if tensor_parallel_size > max(1, gpus):
        raise UserError(f"--tensor_parallel_size {tensor_parallel_size}: {gpus} GPUs are visible (CUDA_VISIBLE_DEVICES)")


def make_generator(
    base: BaseModel, adapter: Path | None, settings: PredictionSettings, engines: Engines, log_path: Path
) -> Generator:
    """A generator of the settings' backend; raises UserError when it can't start."""
    if settings.backend == VLLM:
        from src.prediction.vllm_backend import VllmGenerator

        return VllmGenerator(base, adapter, settings, engines, log_path)
    from src.prediction.transformers_backend import TransformersGenerator

    engines.make_room()
    return TransformersGenerator(base, adapter, settings)
