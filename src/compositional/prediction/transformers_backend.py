"""Greedy generation with transformers. What all prompts of a batch begin with is computed once, and ended rows leave the batch."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from peft import LoraConfig, PeftModel
from torch import nn
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from compositional.adapters.peft_folder import StoredAdapter
from compositional.calibration.parameters import fold_biases, read_biases
from compositional.core.errors import UserError
from compositional.models.chat import left_padded
from compositional.models.model import Model
from compositional.prediction import Answer, AnswerReader, PredictionSettings, no_numbers

# The batch is made smaller once this share of its rows has ended, since that copies its keys and values.
_WORTH_LEAVING = 0.25


class TransformersGenerator:
    """A base model with an adapter (or none) that answers batches of prompts.

    In float32, PEFT folds the adapter into the weights: that changes outputs by rounding only. In 16 bits it would round the
    update itself, so there PEFT applies the adapter beside the weights.
    """

    made_with: ClassVar[dict[str, Any]] = {}

    def __init__(self, base: Model, adapter: StoredAdapter | None, settings: PredictionSettings) -> None:
        self.tokenizer = base.tokenizer
        self.reader = AnswerReader(base, self.tokenizer)
        self.max_new_tokens = settings.max_new_tokens
        who = f"{base.flag} {base.name}" + (f" with adapter {adapter.name}" if adapter else "")
        self._no_numbers = no_numbers(who, settings.dtype, "--prediction_dtype")
        dtype = getattr(torch, settings.dtype)
        self.model: PreTrainedModel = base.load(dtype)
        if adapter:
            with_adapter = PeftModel.from_pretrained(self.model, str(adapter.folder), config=_lora_config(adapter))
            self.model = with_adapter.merge_and_unload() if dtype == torch.float32 else with_adapter
            fold_biases(with_adapter.get_base_model(), read_biases(adapter.folder, adapter.shapes))
        self.model.eval()
        if dtype == torch.float32 and self.model.device.type == "cpu" and torch.backends.mkldnn.is_available():
            _pack_linear_layers(self.model)

    @torch.inference_mode()
    def answers(self, prompts: list[list[int]]) -> list[Answer]:
        """Answers to a batch of prompts (token ids), in their order; raises UserError when the model's logits are no numbers."""
        *_, generated = self._generate(*self._inputs(prompts))
        return [self.reader.read(tokens) for tokens in generated]

    @torch.inference_mode()
    def stream(self, prompt: list[int]) -> Iterator[Answer]:
        """The answer to one prompt (token ids) so far, after each token; closing the iterator ends the work."""
        for (tokens,) in self._generate(*self._inputs([prompt])):
            yield self.reader.read(tokens)

    def _inputs(self, prompts: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor, DynamicCache]:
        """The arguments of `_generate` for a batch of prompts."""
        cache = DynamicCache(config=self.model.config.get_text_config(decoder=True))
        shared = self._fill_with_shared_beginning(cache, prompts)
        rests = [prompt[shared:] for prompt in prompts]
        device = self.model.device
        ids = torch.tensor(left_padded(rests, self.tokenizer.pad_token_id), device=device)
        mask = torch.tensor(left_padded([[1] * len(rest) for rest in rests], 0), device=device)
        mask = torch.cat([mask.new_ones(len(mask), shared), mask], dim=1)
        return ids, mask, cache

    def _fill_with_shared_beginning(self, cache: DynamicCache, prompts: list[list[int]]) -> int:
        """Put the tokens that all prompts begin with (template, instruction, solved examples) into the cache; returns their number.

        The padding then stands between these and the rest. That is only right where a cache is a plain list of keys and values:
        sliding windows count padding.
        """
        pairs = enumerate(zip(min(prompts), max(prompts), strict=False))  # what these two share, all between them share
        shortest = min(map(len, prompts)) - 1  # at least one token of each prompt remains
        shared = min(next((place for place, (a, b) in pairs if a != b), shortest), shortest)
        if len(prompts) == 1 or shared == 0 or any(type(layer) is not DynamicLayer for layer in cache.layers):
            return 0
        beginning = torch.tensor([prompts[0][:shared]], device=self.model.device)
        self.model(input_ids=beginning, past_key_values=cache, use_cache=True, logits_to_keep=1)
        cache.batch_repeat_interleave(len(prompts))
        return shared

    def _generate(self, ids: torch.Tensor, mask: torch.Tensor, cache: DynamicCache) -> Iterator[list[list[int]]]:
        """After each token, the most likely continuation of each row so far, up to and including an end token or the limit.

        Args:
            ids: (batch × length), left-padded.
            mask: (batch × length with the cache's tokens), 1 where there is a token.
            cache: keys and values of the tokens before `ids`.
        """
        generated: list[list[int]] = [[] for _ in ids]
        rows, ends = list(range(len(ids))), set(self.reader.end_tokens)
        positions = (mask.cumsum(dim=1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        for _ in range(self.max_new_tokens):
            outputs = self.model(
                input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True, logits_to_keep=1
            )
            logits = outputs.logits[:, -1]
            tokens = logits.argmax(dim=-1)
            # The highest of values of which one is no number is no number, either.
            sound = logits.gather(1, tokens.unsqueeze(1)).isfinite().flatten().tolist()
            for row, token, is_sound in zip(rows, tokens.tolist(), sound, strict=True):
                if not generated[row] or generated[row][-1] not in ends:
                    if not is_sound:
                        raise UserError(self._no_numbers)
                    generated[row].append(token)
            yield generated
            going_on = [place for place, row in enumerate(rows) if generated[row][-1] not in ends]
            if not going_on:
                break
            ids, positions = tokens.unsqueeze(1), positions[:, -1:] + 1
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
            if len(going_on) <= (1 - _WORTH_LEAVING) * len(rows):
                kept = torch.tensor(going_on, device=ids.device)
                cache.batch_select_indices(kept)
                ids, mask, positions = ids[kept], mask[kept], positions[kept]
                rows = [rows[place] for place in going_on]


def _lora_config(adapter: StoredAdapter) -> LoraConfig:
    """PEFT's settings for exactly the modules that have factors, as merges and the other back ends take them.

    What else a file adapter_config.json says, such as a choice of layers, would leave factors out, or end in an error of PEFT's.
    """
    settings = adapter.config
    alphas = {path: settings.alpha(path) for path in adapter.shapes}
    return LoraConfig(
        r=settings.r,
        lora_alpha=settings.lora_alpha,
        use_rslora=settings.use_rslora,
        target_modules=list(adapter.shapes),
        rank_pattern={re.escape(path): rank for path, rank in adapter.ranks.items() if rank != settings.r},
        alpha_pattern={re.escape(path): alpha for path, alpha in alphas.items() if alpha != settings.lora_alpha},
    )


class _PackedLinear(nn.Module):
    """A linear layer in float32 whose weight is stored as oneDNN's products read it.

    torch arranges a float32 weight anew in each product, which takes most of the time of a product with few rows.
    """

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.bias = layer.bias
        self.packed = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., d_out) for x (..., d_in)."""
        return torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, "none", [], "")


def _pack_linear_layers(model: nn.Module) -> None:
    """Replace linear layers by packed ones, in place."""
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.Linear:
                setattr(parent, name, _PackedLinear(child))
