"""Greedy generation with transformers; PEFT applies the adapters."""

from __future__ import annotations

import torch
from peft import PeftModel
from transformers import GenerationConfig

from compositional.adapters.peft_folder import StoredAdapter
from compositional.calibration.parameters import fold_biases, read_biases
from compositional.models.chat import left_padded
from compositional.models.model import Model
from compositional.prediction import Answer, AnswerReader, PredictionSettings


class TransformersGenerator:
    """A base model with an adapter (or none) that answers batches of prompts."""

    def __init__(self, base: Model, adapter: StoredAdapter | None, settings: PredictionSettings) -> None:
        self.tokenizer = base.tokenizer
        self.reader = AnswerReader(base, self.tokenizer)
        self.model = base.load(getattr(torch, settings.dtype))
        # Replace the entire configuration: unset values would be filled by the model's own sampling, beams or penalties.
        self.model.generation_config = GenerationConfig(
            do_sample=False,
            max_new_tokens=settings.max_new_tokens,
            eos_token_id=self.reader.end_tokens,
            pad_token_id=self.tokenizer.pad_token_id,
        )
        if adapter:
            self.model = PeftModel.from_pretrained(self.model, str(adapter.folder))
            fold_biases(self.model.get_base_model(), read_biases(adapter.folder, adapter.shapes))
        self.model.eval()

    @torch.inference_mode()
    def answers(self, prompts: list[list[int]]) -> list[Answer]:
        """Answers to a batch of prompts (token ids), in their order."""
        device = self.model.device
        ids = torch.tensor(left_padded(prompts, self.tokenizer.pad_token_id), device=device)
        mask = torch.tensor(left_padded([[1] * len(prompt) for prompt in prompts], 0), device=device)
        outputs = self.model.generate(input_ids=ids, attention_mask=mask)
        return [self.reader.read(row) for row in outputs[:, ids.shape[1] :].tolist()]
