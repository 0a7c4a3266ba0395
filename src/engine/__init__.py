"""vLLM as an engine for many experiments: LoRA adapters and Learnable Calibrations are changed while it runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class EngineSettings:
    """How an engine runs. `max_model_len`: tokens of prompt and answer together; `gpu_memory_utilization`: a share of each GPU."""

    dtype: str
    max_model_len: int
    gpu_memory_utilization: float
    tensor_parallel_size: int


@dataclass(frozen=True)
class ServedAdapter:
    """A stored adapter as an engine takes it, named by its content: vLLM takes adapters of one name for the same."""

    folder: Path
    name: str
    rank: int
    has_biases: bool

    @classmethod
    def read(cls, folder: Path) -> ServedAdapter:
        """Read what is needed from the files' headers; raises UserError for damaged files."""
        from src.adapters.peft_folder import has_biases, hash_of_adapter, highest_rank

        return cls(folder.resolve(), hash_of_adapter(folder), highest_rank(folder), has_biases(folder))
