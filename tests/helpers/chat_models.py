"""Tiny models with the structure of real chat models, and one whose answer is given."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from helpers.encoding import QWEN_TEMPLATE, with_template

TURN_END, SYSTEM = "<|im_end|>", "You are Qwen."
# As SmolLM2-135M: nine query heads, three key-value heads, tied embeddings. Heads of 32 are the smallest that vLLM takes on a CPU.
HEADS, KEY_VALUE_HEADS, HEAD = 9, 3, 32
HIDDEN, KEYS, INNER, LAYERS = HEADS * HEAD, KEY_VALUE_HEADS * HEAD, 48, 2


def chat_tokenizer(tiny_tokenizer: PreTrainedTokenizerBase, template: str = QWEN_TEMPLATE) -> PreTrainedTokenizerBase:
    """ChatML with a system prompt of its own. A turn ends with <|im_end|>, a text with the tokenizer's own token."""
    return with_template(tiny_tokenizer, template, "<|im_start|>", TURN_END)


def _config(tokenizer: PreTrainedTokenizerBase, tied: bool, **sizes: int) -> LlamaConfig:
    return LlamaConfig(
        **sizes,
        intermediate_size=INNER,
        num_hidden_layers=LAYERS,
        max_position_embeddings=1024,
        vocab_size=len(tokenizer),
        tie_word_embeddings=tied,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.2,
    )


def _saved(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase, folder: Path) -> Path:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def build_chat_model(folder: Path, tokenizer: PreTrainedTokenizerBase) -> Path:
    """A randomly initialised Llama with SmolLM2's structure."""
    torch.manual_seed(7)
    sizes = {"hidden_size": HIDDEN, "num_attention_heads": HEADS, "num_key_value_heads": KEY_VALUE_HEADS}
    return _saved(LlamaForCausalLM(_config(tokenizer, True, **sizes)), tokenizer, folder)


def build_scripted_model(folder: Path, tokenizer: PreTrainedTokenizerBase, script: list[int]) -> Path:
    """A Llama that says the script after the last token of every prompt, its first; each token follows from the one before.

    Its layers add nothing. A token's embedding is a random direction, and the output weights map it to the next token's logit.
    """
    assert len(set(script)) == len(script), "a token stands in the script twice"
    torch.manual_seed(7)
    model = LlamaForCausalLM(_config(tokenizer, False, hidden_size=64, num_attention_heads=2, num_key_value_heads=1))
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        directions = torch.nn.functional.normalize(torch.randn(len(tokenizer), 64), dim=1)
        model.model.embed_tokens.weight.copy_(directions)
        model.lm_head.weight.zero_()
        for token, following in pairwise(script):
            model.lm_head.weight[following] = directions[token]
    return _saved(model, tokenizer, folder)
