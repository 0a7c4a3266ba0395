"""What a model is to llama.cpp: its architecture, the names and the order of its tensors, and where its graph adds biases."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from compositional.adapters.lora import module_type
from compositional.core.errors import UserError
from compositional.formats.configuration import as_llama, parameters_of

if TYPE_CHECKING:
    import numpy as np
    import torch
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

    from compositional.models.model import Model

LLAMA, QWEN2, STABLELM = "llama", "qwen2", "stablelm"
_ATTENTION = frozenset({"q_proj", "k_proj", "v_proj"})
# The module types after which llama.cpp's graph of an architecture adds a bias.
_PLACES = {
    LLAMA: _ATTENTION | {"o_proj", "gate_proj", "up_proj", "down_proj"},
    QWEN2: _ATTENTION,
    STABLELM: _ATTENTION,
}
# llama.cpp's names of how text is split before byte pair encoding, by what tells them apart in a tokenizer.json.
_PRE_TOKENIZERS = {
    "individual_digits": "smollm",
    r"\\p{N}{1,3}": "llama-bpe",
    r"|\\p{N}|": "qwen2",
    '"ByteLevel"': "gpt-2",
}


@dataclass(frozen=True)
class Form:
    """A model as one of llama.cpp's architectures.

    `config` is the configuration whose weights are written. `bias_places` are the module types that can have a bias. In `llama`,
    the rows of q and k stand in another order than transformers', because its rotary embeddings pair neighbours.
    """

    architecture: str
    config: PretrainedConfig
    bias_places: frozenset[str]

    def check_places(self, modules: Iterable[str]) -> None:
        """Raise UserError if a calibration has a bias of a module (a path or a type) after which no bias is added."""
        if not (missing := {module_type(path) for path in modules} - self.bias_places):
            return
        kinds, others = ", ".join(sorted(missing)), " ".join(sorted(self.bias_places))
        as_llama_too = "without --base_gguf, Qwen2 is written as llama, which adds all; or " if self.architecture == QWEN2 else ""
        raise UserError(
            f"GGUF: llama.cpp's graph of {self.architecture} adds no bias after {kinds}, where this Learnable Calibration has one: "
            f"{as_llama_too}calibrate other modules (--calibration_modules {others}), or use LC++"
        )

    def tensors(self, weights: dict[str, torch.Tensor]) -> Iterator[tuple[str, np.ndarray]]:
        """GGUF's name and the value (float32) of each weight and bias, with rows in GGUF's order."""
        heads = {"q_proj": self.config.num_attention_heads, "k_proj": self.config.num_key_value_heads}
        for name, gguf_name in self.names(weights).items():
            rows = weights[name].detach().float().cpu()
            count = heads.get(module_type(name.rpartition(".")[0])) if self.architecture == LLAMA else None
            if count is not None:
                rows = rows.reshape(count, 2, rows.shape[0] // count // 2, *rows.shape[1:]).transpose(1, 2).reshape(rows.shape)
            yield gguf_name, rows.numpy()

    def names(self, parameters: Iterable[str]) -> dict[str, str]:
        """GGUF's name of each parameter, such as `blk.0.attn_q.weight`."""
        from gguf import MODEL_ARCH, MODEL_ARCH_NAMES, get_tensor_name_map

        architecture = next(key for key in MODEL_ARCH if MODEL_ARCH_NAMES[key] == self.architecture)
        known = get_tensor_name_map(architecture, self.config.num_hidden_layers)
        found = {}
        for name in parameters:
            module, _, kind = name.rpartition(".")
            if (gguf_name := known.get_name(module)) is None:
                raise ValueError(f"{name} has no name in GGUF")
            found[name] = f"{gguf_name}.{kind}"
        return found

    def shapes(self, config: PretrainedConfig) -> dict[str, tuple[int, ...]]:
        """GGUF's name and the shape of each parameter of a configuration's model."""
        parameters = parameters_of(config)
        return {gguf_name: tuple(parameters[name].shape) for name, gguf_name in self.names(parameters).items()}


def gguf_form(base: Model, architecture: str | None = None) -> Form:
    """A model's form, as the requested architecture or else as that in which it has most places for biases.

    Raises UserError for a model that llama.cpp would compute otherwise, and for an architecture that is not the model's.
    """
    kind = base.config.model_type
    forms = {LLAMA: (LLAMA,), QWEN2: (LLAMA, QWEN2), STABLELM: (STABLELM,)}.get(kind, ())
    changed = as_llama(base.config) if kind == QWEN2 else None
    if not forms or (kind == QWEN2 and changed is None):
        raise UserError(f"GGUF: this {kind} is not written: Llama, StableLM and Qwen2 without sliding windows are")
    if kind == STABLELM and (base.config.qk_layernorm or base.config.use_parallel_residual):
        raise UserError("GGUF: StableLM with normalized queries and keys or with parallel residuals is not written")
    rope = base.config.rope_parameters
    if rope["rope_type"] not in ("default", "llama3", "linear"):
        raise UserError(f"GGUF: rotary embeddings of the type {rope['rope_type']} are not written")
    if architecture is not None and architecture not in forms:
        raise UserError(f"its architecture is {architecture}, and {base.name} is {' or '.join(forms)}")
    chosen = architecture or forms[0]
    return Form(chosen, changed if changed is not None and chosen == LLAMA else base.config, _PLACES[chosen])


def pre_tokenizer(tokenizer: PreTrainedTokenizerBase) -> str:
    """llama.cpp's name of how the tokenizer splits text; raises UserError for one that is no byte-level BPE, or not known."""
    settings = json.loads(tokenizer.backend_tokenizer.to_str())
    split = json.dumps(settings["pre_tokenizer"])
    name = next((name for mark, name in _PRE_TOKENIZERS.items() if mark in split), None)
    if settings["model"]["type"] != "BPE" or '"ByteLevel"' not in split or name is None:
        raise UserError(f"GGUF: a tokenizer of the kind {settings['model']['type']} with this pre-tokenizer is not written")
    return name
