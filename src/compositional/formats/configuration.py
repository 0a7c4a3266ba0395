"""A model's configuration with a place for each bias of a calibration."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from compositional.core.errors import UserError

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig

    from compositional.models.model import Model

# What a LlamaConfig takes over from the configuration of a Qwen2 model, which computes the same but for the places of biases.
_SHARED_WITH_LLAMA = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"),
    *("hidden_act", "max_position_embeddings", "rms_norm_eps", "tie_word_embeddings", "rope_parameters"),
    *("bos_token_id", "eos_token_id", "pad_token_id", "initializer_range"),
)


def configuration_with_places(base: Model, biases: dict[str, torch.Tensor]) -> PretrainedConfig:
    """A configuration whose model has a bias wherever the calibration has one; raises UserError where there is none."""
    candidates = [base.config]
    if biases:
        candidates += [changed for changed in (_with_flags(base.config), as_llama(base.config)) if changed is not None]
    for config in candidates:
        if not (missing := [path for path in biases if f"{path}.bias" not in parameters_of(config)]):
            return config
    kinds = ", ".join(sorted({path.rpartition(".")[2] for path in missing}))
    raise UserError(
        f"--to merged: {base.config.model_type} has no place for biases of {kinds}, which this Learnable Calibration has; "
        "calibrate other modules (--calibration_modules), or use LC++"
    )


def _with_flags(config: PretrainedConfig) -> PretrainedConfig | None:
    """The configuration with biases in attention and MLP, if its architecture has flags for them."""
    flags = {name: True for name in ("attention_bias", "mlp_bias", "use_qkv_bias") if hasattr(config, name)}
    return type(config).from_dict(config.to_dict() | flags) if flags else None


def as_llama(config: PretrainedConfig) -> PretrainedConfig | None:
    """Qwen2 written as a Llama with biases; None for another architecture, and for sliding windows."""
    from transformers import LlamaConfig

    if config.model_type != "qwen2" or getattr(config, "use_sliding_window", False):
        return None
    settings = config.to_dict()
    shared = {name: settings[name] for name in _SHARED_WITH_LLAMA if name in settings}
    return LlamaConfig(**shared, attention_bias=True, mlp_bias=True)


def parameters_of(config: PretrainedConfig) -> dict[str, Any]:
    """The names of the parameters of a configuration's model, without their values."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        return dict(AutoModelForCausalLM.from_config(config).named_parameters())
