"""What vLLM takes, checked before anything is started."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from typing import get_args

from src.adapters.lora import module_type
from src.errors import UserError
from src.models import BaseModel

_WITHOUT_LORA = ("lm_head", "embed_tokens")


def check_vllm(model: BaseModel, tensor_parallel_size: int) -> None:
    """Raise UserError when vLLM is not installed, or can't spread the model as asked."""
    import torch

    if not importlib.util.find_spec("vllm"):
        raise UserError("vLLM is not installed: make environment, or pip install vllm")
    gpus, heads = torch.cuda.device_count(), _heads(model)
    if tensor_parallel_size > max(1, gpus):
        raise UserError(f"--tensor_parallel_size {tensor_parallel_size}: {gpus} GPUs are visible (CUDA_VISIBLE_DEVICES)")
    if heads % tensor_parallel_size:
        raise UserError(
            f"--tensor_parallel_size {tensor_parallel_size}: {model.name} has {heads} attention heads, no multiple of it"
        )


def check_adapter(rank: int, module_paths: Iterable[str], dtype: str) -> None:
    """Raise UserError for an adapter that vLLM refuses: its rank, its modules, or float32 on a GPU."""
    import torch

    allowed_rank(rank)
    if refused := sorted({module_type(path) for path in module_paths} & set(_WITHOUT_LORA)):
        raise UserError(f"vLLM takes no adapters of {' and '.join(refused)}")
    if rank and dtype == "float32" and torch.cuda.is_available():
        raise UserError("vLLM's LoRA on a GPU computes in bfloat16 or float16 only, not in float32")


def allowed_rank(rank: int) -> int:
    """The lowest `max_lora_rank` of vLLM's that takes adapters of a rank; raises UserError when there is none."""
    if not rank:
        return 0
    from vllm.config.lora import MaxLoRARanks

    allowed = get_args(MaxLoRARanks)
    if rank > max(allowed):
        raise UserError(f"vLLM takes adapters up to rank {max(allowed)}, not {rank}")
    return min(one for one in allowed if one >= rank)


def usable_gpus(model: BaseModel) -> int:
    """The most visible GPUs that a model can be spread over, at least 1."""
    import torch

    heads = _heads(model)
    return max(number for number in range(1, max(1, torch.cuda.device_count()) + 1) if heads % number == 0)


def _heads(model: BaseModel) -> int:
    return model.config().get_text_config().num_attention_heads
