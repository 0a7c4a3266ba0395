"""vLLM's StableLM with LoRA, which it lacks (0.32). Its linear layers are vLLM's usual ones, it need only say which are fused."""

from __future__ import annotations

from typing import ClassVar

from vllm.model_executor.models.interfaces import SupportsLoRA
from vllm.model_executor.models.stablelm import StablelmForCausalLM


class StableLmForCausalLMWithLora(StablelmForCausalLM, SupportsLoRA):
    """StableLM whose attention and MLP modules take LoRA adapters."""

    packed_modules_mapping: ClassVar[dict[str, list[str]]] = {
        "qkv_proj": ["q_proj", "k_proj", "v_proj"],
        "gate_up_proj": ["gate_proj", "up_proj"],
    }
