"""Published shapes of models, for benchmarks on random weights."""

from __future__ import annotations

from typing import Any

_SMOLLM2 = {
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "vocab_size": 49152,
    "max_position_embeddings": 8192,
    "rope_theta": 100000.0,
}
_LLAMA = {
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "vocab_size": 128256,
    "max_position_embeddings": 4096,
}
_TINY = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "vocab_size": 2048,
    "max_position_embeddings": 1024,
}
# Settings of transformers' LlamaConfig. SmolLM2 is a Llama.
SHAPES: dict[str, dict[str, Any]] = {
    "smollm2-135m": _SMOLLM2,
    "llama-3.2-1b": _LLAMA,
    "llama-3.2-1b-4-layers": _LLAMA | {"num_hidden_layers": 4},
    "tiny": _TINY,
}
