"""GGUF, the format of llama.cpp: a base model, an adapter, and a calibration's biases as files of their own.

`gguf_forms` says as what a model is written. Precisions are torch's, and those of blocks of 32 values in a row: Q8_0 and Q4_1.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compositional.core.errors import UserError
from compositional.formats.gguf_forms import STABLELM, Form, gguf_form, pre_tokenizer

if TYPE_CHECKING:
    import numpy as np
    import torch
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from compositional.adapters.lora import LoraAdapter
    from compositional.adapters.peft_folder import StoredAdapter
    from compositional.models.model import Model

Q8_0, Q4_1 = "q8_0", "q4_1"
QUANTIZED = (Q8_0, Q4_1)
_FILE_TYPES = {
    "float32": "ALL_F32",
    "float16": "MOSTLY_F16",
    "bfloat16": "MOSTLY_BF16",
    Q8_0: "MOSTLY_Q8_0",
    Q4_1: "MOSTLY_Q4_1",
}
_BLOCK = 32  # values of a row that share a scale


def write_base(path: Path, base: Model, dtype: str, biases: dict[str, torch.Tensor]) -> list[Path]:
    """Write a model in a precision, with its tokenizer; returns the files.

    With `biases` (d_out, by module path), which are added to the model's own, there are two files: the second has the biases alone.
    Raises UserError for biases without a place.
    """
    import torch
    from gguf import LlamaFileType

    form = gguf_form(base)
    form.check_places(biases)
    model = base.load(torch.float32).to("cpu")
    weights, config = model.state_dict(), form.config
    if config.tie_word_embeddings and form.architecture != STABLELM:  # which has its output layer in any case
        del weights["lm_head.weight"]
    summed = {f"{module}.bias": value + weights.pop(f"{module}.bias", 0) for module, value in biases.items()}
    factors = _rope_factors(model, config)
    tensors = [*form.tensors(weights), *([("rope_freqs.weight", factors)] if factors is not None else [])]
    extra = list(form.tensors(summed))
    files = [path.with_name(f"{path.stem}-0000{n}-of-00002.gguf") for n in (1, 2)] if extra else [path]
    writer = new_writer(files[0], form.architecture, (0, 2, len(tensors) + len(extra)) if extra else None)
    _add_settings(writer, base, form)
    _add_tokenizer(writer, base.tokenizer, config.vocab_size)
    writer.add_file_type(LlamaFileType[_FILE_TYPES[dtype]])
    finish(writer, tensors, dtype)
    if extra:
        write_biases(files[1], form, extra, len(tensors) + len(extra))
    return files


def write_biases(path: Path, form: Form, biases: list[tuple[str, np.ndarray]], tensors: int) -> None:
    """Write biases (GGUF's name and value) as the second file of a base model; `tensors` counts those of both files."""
    finish(new_writer(path, form.architecture, (1, 2, tensors)), biases, "float32")


def write_lora(path: Path, form: Form, adapter: LoraAdapter, dtype: str, identity: str = "") -> None:
    """Write an adapter. The scaling is folded into B, and an alpha of 0 makes llama.cpp scale by 1.

    llama.cpp's own converter reads one `lora_alpha` for all modules, which is wrong for rank-stabilized LoRA and for patterns.
    llama.cpp's server tells the `identity` as the adapter's `task_name`.
    """
    writer = new_writer(path, form.architecture, None)
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", 0.0)
    writer.add_string("adapter.lora.task_name", identity)
    tensors = []
    for module, factors in adapter.factors.items():
        ((name, B),) = form.tensors({f"{module}.weight": factors.scaling * factors.B.float()})
        tensors += [(f"{name}.lora_a", factors.A.float().numpy()), (f"{name}.lora_b", B)]
    finish(writer, tensors, "float16" if dtype in QUANTIZED else dtype)


def identity_of(stored: StoredAdapter, compact_rank: int | None = None) -> str:
    """What names an adapter's content in its GGUF file: the beginning of its hash, and the rank that it is cut to."""
    return stored.hash[:16] + (f"-rank{compact_rank}" if compact_rank else "")


def round_weights(model: PreTrainedModel, dtype: str) -> None:
    """Round a model's matrices, in place, to the values that they have in a GGUF file of a quantized precision."""
    import torch
    from gguf import GGMLQuantizationType, quants

    kind = GGMLQuantizationType[dtype.upper()]
    with torch.no_grad():
        for parameter in model.parameters():
            whole = parameter.detach().float().cpu().numpy()
            if _fits(whole, dtype):
                parameter.copy_(torch.from_numpy(quants.dequantize(quants.quantize(whole, kind), kind)))


def _fits(value: np.ndarray, dtype: str) -> bool:
    """Whether a tensor is stored in a precision of less than float32: a matrix, whose rows divide into blocks if it has them."""
    return value.ndim == 2 and (dtype not in QUANTIZED or value.shape[1] % _BLOCK == 0)


def new_writer(path: Path, architecture: str, split: tuple[int, int, int] | None) -> Any:
    """A writer of one file; `split` is its number, the number of files, and the number of all their tensors."""
    from gguf import GGUFWriter

    writer = GGUFWriter(path, architecture)
    if split:
        number, count, tensors = split
        writer.add_uint16("split.no", number)
        writer.add_uint16("split.count", count)
        writer.add_int32("split.tensors.count", tensors)
    return writer


def finish(writer: Any, tensors: Iterable[tuple[str, np.ndarray]], dtype: str) -> None:
    """Add tensors, matrices in a precision and vectors in float32, and write the file; raises UserError for too large values."""
    import numpy as np
    from gguf import GGMLQuantizationType, quants

    kinds = {"float16": GGMLQuantizationType.F16, "bfloat16": GGMLQuantizationType.BF16}
    kinds |= {name: GGMLQuantizationType[name.upper()] for name in QUANTIZED}
    for name, value in tensors:
        whole = np.ascontiguousarray(value, dtype=np.float32)
        if dtype == "float16" and np.abs(whole).max() > np.finfo(np.float16).max:
            raise UserError(f"{name} has values up to {np.abs(whole).max():.3g}, too large for float16: use another --dtype")
        if dtype == "float32" or not _fits(whole, dtype):
            writer.add_tensor(name, whole)
        else:
            writer.add_tensor(name, quants.quantize(whole, kinds[dtype]), raw_dtype=kinds[dtype])
    close(writer)


def close(writer: Any) -> None:
    """Write what a writer was given, and close its file."""
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _rope_factors(model: PreTrainedModel, config: PretrainedConfig) -> np.ndarray | None:
    """By how much each frequency of the rotary embeddings is divided (head size / 2); None where by nothing."""
    import torch

    used = model.model.rotary_emb.inv_freq.detach().float().cpu()
    size, theta = 2 * len(used), config.rope_parameters["rope_theta"]
    plain = 1.0 / theta ** (torch.arange(0, size, 2, dtype=torch.int64).float() / size)
    factors = plain / used
    return None if torch.allclose(factors, torch.ones_like(factors), atol=1e-5) else factors.numpy()


def _add_settings(writer: Any, base: Model, form: Form) -> None:
    config = form.config
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
    writer.add_rope_dimension_count(int(size * config.rope_parameters.get("partial_rotary_factor", 1.0)))
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    if form.architecture == STABLELM:
        writer.add_layer_norm_eps(config.layer_norm_eps)
        writer.add_parallel_residual(config.use_parallel_residual)
    else:
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
