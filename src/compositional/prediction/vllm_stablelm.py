"""StableLM with LoRA for vLLM, whose own (0.32) has none. Its linear layers are standard; only fused ones must be listed."""

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
