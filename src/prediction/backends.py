"""The prediction backends: vLLM and transformers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from src.models import BaseModel
from src.prediction import PredictionSettings
from src.processes import has_bfloat16

if TYPE_CHECKING:
    from src.engine.pool import Engines
    from src.prediction.predict import Generator

VLLM, TRANSFORMERS = "vllm", "transformers"
# vLLM schedules prompts itself, transformers computes them as one batch.
PROMPTS_AT_A_TIME = {VLLM: 256, TRANSFORMERS: 64}


def resolve_backend(asked: str) -> str:
    """The backend that is asked for; "auto" is vLLM where a GPU is, transformers otherwise."""
    import torch

    if asked != "auto":
        return asked
    return VLLM if torch.cuda.is_available() else TRANSFORMERS


def resolve_dtype(asked: str) -> str:
    """The precision that is asked for; "auto" is bfloat16 on a GPU that has it, float16 on one that hasn't, float32 on a CPU."""
    import torch

    if asked != "auto":
        return asked
    if not torch.cuda.is_available():
        return "float32"
    return "bfloat16" if has_bfloat16() else "float16"


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
