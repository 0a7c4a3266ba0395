"""GGUF, the format of llama.cpp: a base model, an adapter, and a calibration's biases as files of their own.

Everything is written as llama.cpp's architecture `llama`, whose linear modules all have a place for a bias. Its rows of q and k
stand in another order than transformers', so base weights, B of adapters and biases are permuted alike.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compositional.core.errors import UserError
from compositional.formats.configuration import as_llama

if TYPE_CHECKING:
    import numpy as np
    import torch
    from transformers import LlamaConfig, PreTrainedModel, PreTrainedTokenizerBase

    from compositional.adapters.lora import LoraAdapter
    from compositional.models.model import Model

ARCHITECTURE = "llama"
Q8_0 = "q8_0"
# llama.cpp's names of how text is split before byte pair encoding, by what tells them apart in a tokenizer.json.
_PRE_TOKENIZERS = {
    "individual_digits": "smollm",
    r"\\p{N}{1,3}": "llama-bpe",
    r"|\\p{N}|": "qwen2",
    '"ByteLevel"': "gpt-2",
}


def llama_form(base: Model) -> LlamaConfig:
    """The configuration of a model as a Llama; raises UserError when it computes something else."""
    config = base.config if base.config.model_type == "llama" else as_llama(base.config)
    if config is None:
        raise UserError(f"GGUF: {base.config.model_type} is not written: Llama is, and Qwen2, which can be written as one")
    rope = config.rope_parameters
    if rope["rope_type"] not in ("default", "llama3", "linear"):
        raise UserError(f"GGUF: rotary embeddings of the type {rope['rope_type']} are not written")
    return config


def pre_tokenizer(tokenizer: PreTrainedTokenizerBase) -> str:
    """llama.cpp's name of how the tokenizer splits text; raises UserError for one that is no byte-level BPE, or not known."""
    settings = json.loads(tokenizer.backend_tokenizer.to_str())
    split = json.dumps(settings["pre_tokenizer"])
    name = next((name for mark, name in _PRE_TOKENIZERS.items() if mark in split), None)
    if settings["model"]["type"] != "BPE" or '"ByteLevel"' not in split or name is None:
        raise UserError(f"GGUF: a tokenizer of the kind {settings['model']['type']} with this pre-tokenizer is not written")
    return name


def write_base(path: Path, base: Model, dtype: str, biases: dict[str, torch.Tensor]) -> list[Path]:
    """Write a model in a precision, with its tokenizer; returns the files.

    With `biases` (d_out, by module path), which are added to the model's own, there are two files: the second has the biases alone.
    """
    import torch
    from gguf import LlamaFileType

    config, model = llama_form(base), base.load(torch.float32).to("cpu")
    own = {name.removesuffix(".bias"): value for name, value in model.state_dict().items() if name.endswith("proj.bias")}
    files = [path.with_name(f"{path.stem}-0000{n}-of-00002.gguf") for n in (1, 2)] if biases else [path]
    weights = {
        **{name: value for name, value in model.state_dict().items() if name.endswith(".weight") and name != _tied_head(config)},
        **{f"{module}.bias": value for module, value in own.items() if module not in biases},
    }
    factors = _rope_factors(model, config)
    tensors = [*_tensors(weights, config), *([("rope_freqs.weight", factors)] if factors is not None else [])]
    extra = list(_tensors({f"{module}.bias": value + own.get(module, 0) for module, value in biases.items()}, config))
    writer = _writer(files[0], (0, len(files), len(tensors) + len(extra)) if extra else None)
    _add_settings(writer, base, config)
    _add_tokenizer(writer, base.tokenizer, config.vocab_size)
    kinds = {"float32": "ALL_F32", "float16": "MOSTLY_F16", "bfloat16": "MOSTLY_BF16", Q8_0: "MOSTLY_Q8_0"}
    writer.add_file_type(LlamaFileType[kinds[dtype]])
    _finish(writer, tensors, dtype)
    if extra:
        _finish(_writer(files[1], (1, len(files), len(tensors) + len(extra))), extra, "float32")
    return files


def write_lora(path: Path, base: Model, adapter: LoraAdapter, dtype: str) -> None:
    """Write an adapter. The scaling is folded into B, and an alpha of 0 makes llama.cpp scale by 1.

    llama.cpp's own converter reads one `lora_alpha` for all modules, which is wrong for rank-stabilized LoRA and for patterns.
    """
    writer = _writer(path, None)
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", 0.0)
    config = llama_form(base)
    tensors = []
    for module, factors in adapter.factors.items():
        ((name, B),) = _tensors({f"{module}.weight": factors.scaling * factors.B.float()}, config)
        tensors += [(f"{name}.lora_a", factors.A.float().numpy()), (f"{name}.lora_b", B)]
    _finish(writer, tensors, "float16" if dtype == Q8_0 else dtype)


def _writer(path: Path, split: tuple[int, int, int] | None) -> Any:
    """A writer of one file; `split` is its number, the number of files, and the number of all their tensors."""
    from gguf import GGUFWriter

    writer = GGUFWriter(path, ARCHITECTURE)
    if split:
        number, count, tensors = split
        writer.add_uint16("split.no", number)
        writer.add_uint16("split.count", count)
        writer.add_int32("split.tensors.count", tensors)
    return writer


def _finish(writer: Any, tensors: Iterable[tuple[str, np.ndarray]], dtype: str) -> None:
    """Add tensors, matrices in a precision and vectors in float32, and write the file; raises UserError for too large values."""
    import numpy as np
    from gguf import GGMLQuantizationType, quants

    kinds = {"float16": GGMLQuantizationType.F16, "bfloat16": GGMLQuantizationType.BF16, Q8_0: GGMLQuantizationType.Q8_0}
    for name, value in tensors:
        whole = np.ascontiguousarray(value, dtype=np.float32)
        if dtype == "float16" and np.abs(whole).max() > np.finfo(np.float16).max:
            raise UserError(f"{name} has values up to {np.abs(whole).max():.3g}, too large for float16: use another --dtype")
        fits = whole.ndim == 2 and (dtype != Q8_0 or whole.shape[1] % 32 == 0)
        if dtype == "float32" or not fits:
            writer.add_tensor(name, whole)
        else:
            writer.add_tensor(name, quants.quantize(whole, kinds[dtype]), raw_dtype=kinds[dtype])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _tensors(weights: dict[str, torch.Tensor], config: LlamaConfig) -> Iterable[tuple[str, np.ndarray]]:
    """GGUF's name and value of each weight and bias, with the rows of q and k in GGUF's order."""
    from gguf import MODEL_ARCH, get_tensor_name_map

    names = get_tensor_name_map(MODEL_ARCH.LLAMA, config.num_hidden_layers)
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for name, value in weights.items():
        module, _, kind = name.rpartition(".")
        found = names.get_name(module)
        if found is None:
            raise ValueError(f"{name} has no name in GGUF")
        rows = value.detach().float().cpu()
        if (count := heads.get(module.rpartition(".")[2])) is not None:
            rows = rows.reshape(count, 2, rows.shape[0] // count // 2, *rows.shape[1:]).transpose(1, 2).reshape(rows.shape)
        yield f"{found}.{kind}", rows.numpy()


def _tied_head(config: LlamaConfig) -> str | None:
    """The output layer's weight, if it is the embeddings': GGUF then has the embeddings alone."""
    return "lm_head.weight" if config.tie_word_embeddings else None


def _rope_factors(model: PreTrainedModel, config: LlamaConfig) -> np.ndarray | None:
    """By how much each frequency of the rotary embeddings is divided (head size / 2); None where by nothing."""
    import torch

    used = model.model.rotary_emb.inv_freq.detach().float().cpu()
    size, theta = 2 * len(used), config.rope_parameters["rope_theta"]
    plain = 1.0 / theta ** (torch.arange(0, size, 2, dtype=torch.int64).float() / size)
    factors = plain / used
    return None if torch.allclose(factors, torch.ones_like(factors), atol=1e-5) else factors.numpy()


def _add_settings(writer: Any, base: Model, config: LlamaConfig) -> None:
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_name(base.name)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(size)
    writer.add_value_length(size)
    writer.add_rope_dimension_count(size)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)


def _add_tokenizer(writer: Any, tokenizer: PreTrainedTokenizerBase, vocabulary: int) -> None:
    """The tokenizer's tokens, as many as the model has embeddings, its merges, special tokens and chat template."""
    from gguf import TokenType

    settings = json.loads(tokenizer.backend_tokenizer.to_str())
    tokens = {number: token for token, number in tokenizer.get_vocab().items()}
    added = {number: token.special for number, token in tokenizer.added_tokens_decoder.items()}
    kinds = {True: TokenType.CONTROL, False: TokenType.USER_DEFINED}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre_tokenizer(tokenizer))
    writer.add_token_list([tokens.get(number, f"[PAD{number}]") for number in range(vocabulary)])
    writer.add_token_types(
        [
            kinds[added[number]] if number in added else TokenType.NORMAL if number in tokens else TokenType.UNUSED
            for number in range(vocabulary)
        ]
    )
    writer.add_token_merges([one if isinstance(one, str) else " ".join(one) for one in settings["model"]["merges"]])
    for kind, add in (("bos", writer.add_bos_token_id), ("eos", writer.add_eos_token_id), ("pad", writer.add_pad_token_id)):
        if (number := getattr(tokenizer, f"{kind}_token_id")) is not None:
            add(number)
    writer.add_add_bos_token(False)
    if isinstance(tokenizer.chat_template, str):
        writer.add_chat_template(tokenizer.chat_template)
