"""Greedy generation with transformers, adapters applied by PEFT."""

from __future__ import annotations

from pathlib import Path

import torch
from peft import PeftModel
from transformers import GenerationConfig, PreTrainedModel

from src.adapters.peft_folder import read_shapes
from src.calibration.model import fold_biases
from src.calibration.parameters import read_biases
from src.encoding import ChatEncoder, left_padded
from src.models import BaseModel
from src.prediction import Answer, PredictionSettings


class TransformersGenerator:
    """A base model with an adapter (or none) that answers batches of prompts."""

    def __init__(self, base: BaseModel, adapter: Path | None, settings: PredictionSettings) -> None:
        self.tokenizer = base.tokenizer()
        self.model = base.load(prediction_dtype(settings.dtype))
        self.end_tokens = ChatEncoder(self.tokenizer).end_tokens | _end_tokens_of(self.model)
        # Replaced as a whole: a model's own sampling, beams or penalties would fill whatever is left unset.
        self.model.generation_config = GenerationConfig(
            do_sample=False,
            max_new_tokens=settings.max_new_tokens,
            eos_token_id=sorted(self.end_tokens),
            pad_token_id=self.tokenizer.pad_token_id,
        )
        if adapter:
            self.model = PeftModel.from_pretrained(self.model, str(adapter))
            fold_biases(self.model.get_base_model(), read_biases(adapter, read_shapes(adapter)))
        self.model.eval()

    @torch.inference_mode()
    def answers(self, prompts: list[list[int]]) -> list[Answer]:
        """Answers to a batch of prompts (token ids), in their order."""
        device = self.model.device
        ids = torch.tensor(left_padded(prompts, self.tokenizer.pad_token_id), device=device)
        mask = torch.tensor(left_padded([[1] * len(prompt) for prompt in prompts], 0), device=device)
        outputs = self.model.generate(input_ids=ids, attention_mask=mask)
        return [self._answer(row) for row in outputs[:, ids.shape[1] :].tolist()]

    def _answer(self, generated: list[int]) -> Answer:
        end = next((index for index, token in enumerate(generated) if token in self.end_tokens), None)
        text = self.tokenizer.decode(generated[:end], skip_special_tokens=True)
        return Answer(text.strip(), cut_off=end is None)


def _end_tokens_of(model: PreTrainedModel) -> set[int]:
    """The tokens that end an answer by the model's own generation settings."""
    ends = model.generation_config.eos_token_id
    return set(ends) if isinstance(ends, list) else {ends} - {None}


def prediction_dtype(name: str) -> torch.dtype:
    """A dtype by name; "auto" is bfloat16 on a GPU and float32 otherwise."""
    if name == "auto":
        return torch.bfloat16 if torch.cuda.is_available() else torch.float32
    return getattr(torch, name)
