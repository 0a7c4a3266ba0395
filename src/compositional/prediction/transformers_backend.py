"""Greedy generation with transformers. Rows of a batch that have ended leave it."""

from __future__ import annotations

import torch
from peft import PeftModel
from transformers import DynamicCache, PreTrainedModel

from compositional.adapters.peft_folder import StoredAdapter
from compositional.calibration.parameters import fold_biases, read_biases
from compositional.models.chat import left_padded
from compositional.models.model import Model
from compositional.prediction import Answer, AnswerReader, PredictionSettings

# The batch is made smaller once this share of its rows has ended, since that copies its keys and values.
_WORTH_LEAVING = 0.25


class TransformersGenerator:
    """A base model with an adapter (or none) that answers batches of prompts.

    In float32, PEFT folds the adapter into the weights: that changes outputs by rounding only. In 16 bits it would round the
    update itself, so there PEFT applies the adapter beside the weights.
    """

    def __init__(self, base: Model, adapter: StoredAdapter | None, settings: PredictionSettings) -> None:
        self.tokenizer = base.tokenizer
        self.reader = AnswerReader(base, self.tokenizer)
        self.max_new_tokens = settings.max_new_tokens
        dtype = getattr(torch, settings.dtype)
        self.model: PreTrainedModel = base.load(dtype)
        if adapter:
            with_adapter = PeftModel.from_pretrained(self.model, str(adapter.folder))
            self.model = with_adapter.merge_and_unload() if dtype == torch.float32 else with_adapter
            fold_biases(with_adapter.get_base_model(), read_biases(adapter.folder, adapter.shapes))
        self.model.eval()

    @torch.inference_mode()
    def answers(self, prompts: list[list[int]]) -> list[Answer]:
        """Answers to a batch of prompts (token ids), in their order."""
        device = self.model.device
        ids = torch.tensor(left_padded(prompts, self.tokenizer.pad_token_id), device=device)
        mask = torch.tensor(left_padded([[1] * len(prompt) for prompt in prompts], 0), device=device)
        return [self.reader.read(generated) for generated in self._generate(ids, mask)]

    def _generate(self, ids: torch.Tensor, mask: torch.Tensor) -> list[list[int]]:
        """The most likely continuation of each row, token by token, up to and including an end token or the limit.

        Args:
            ids: (batch × length), left-padded.
            mask: (batch × length), 1 where there is a token.
        """
        generated: list[list[int]] = [[] for _ in ids]
        rows, ends = list(range(len(ids))), set(self.reader.end_tokens)
        cache = DynamicCache(config=self.model.config.get_text_config(decoder=True))
        positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
        for _ in range(self.max_new_tokens):
            outputs = self.model(
                input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True, logits_to_keep=1
            )
            tokens = outputs.logits[:, -1].argmax(dim=-1)
            for row, token in zip(rows, tokens.tolist(), strict=True):
                if not generated[row] or generated[row][-1] not in ends:
                    generated[row].append(token)
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
        return generated
