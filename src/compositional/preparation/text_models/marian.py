"""Translation from English by MarianMT (Helsinki-NLP/opus-mt-en-*), the paper's translator by its later code base.

A text of more than 384 tokens is split, translated piece by piece and joined. The models decode with their own
settings (beam search).
"""

from __future__ import annotations

import warnings
from typing import Any

from compositional.core.errors import UserError
from compositional.models.model import Model
from compositional.preparation.text_models import LoadedModel, TextModelSettings, rewrite_in_pieces
from compositional.tasks import Task

TASKS = ("translation",)
REVISION = "9fe2b441f897d8d6cea0e6261dc2f680ba0144f92e4110c7e0d5ebd128ac21b2"
DEFAULT_MODEL = "Helsinki-NLP/opus-mt-en-{language}"
LONGEST = 512  # tokens of a translation; a text has three quarters of them at most, for translations are longer


def text_model(task: Task, settings: TextModelSettings) -> MarianTranslator:
    """The translator to the task's language."""
    name = (settings.model or DEFAULT_MODEL).replace("{language}", task.variant)
    return MarianTranslator(Model(name, "--translator_model"), settings)


class MarianTranslator(LoadedModel):
    """A MarianMT model with its SentencePiece tokenizer, on this process's GPU if there is one."""

    batch_size = 64

    def __init__(self, published: Model, settings: TextModelSettings) -> None:
        self.published = published
        self.settings = settings

    def identity(self) -> dict[str, Any]:
        """Model and precision; see `TextModel`."""
        return {"model": self.published.identity_without_network, "dtype": self.settings.dtype}

    def check(self) -> None:
        """Raise UserError when the model can't be had, or is no Marian model; see `TextModel`."""
        self.published.check_exists()
        config = self.published.config
        if config.model_type != "marian":
            raise UserError(f"{self.published.flag} {self.published.name}: expected a Marian model, found {config.model_type}")
        self.published.check_has("source.spm", "target.spm", "vocab.json")

    def start(self) -> None:
        """Load model and tokenizer, unless they are loaded."""
        if self.model is not None:
            return
        from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

        with warnings.catch_warnings():  # the tokenizer doesn't use the package that it recommends
            warnings.filterwarnings("ignore", message=".*sacremoses")
            self.tokenizer = self.published.load_as(AutoTokenizer)
        self.model = self.published.load_as(AutoModelForSeq2SeqLM, self.settings.dtype)
        self.longest = min(LONGEST, self.model.config.max_position_embeddings)
        self.longest_text = self.longest * 3 // 4

    def rewrite(self, texts: list[str]) -> list[str]:
        """The translation of each text, long ones in pieces."""
        return rewrite_in_pieces(texts, self._length, self.longest_text, self._translate)

    def _length(self, text: str) -> int:
        return len(self.tokenizer(text)["input_ids"])

    def _translate(self, texts: list[str]) -> list[str]:
        import torch

        batch = self.tokenizer(texts, return_tensors="pt", padding=True)
        with torch.inference_mode():
            ids = self.model.generate(**batch.to(self.model.device), max_length=self.longest, do_sample=False)
        return [text.strip() for text in self.tokenizer.batch_decode(ids, skip_special_tokens=True)]
