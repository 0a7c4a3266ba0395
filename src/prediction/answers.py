"""From generated tokens to an answer, alike for every backend."""

from __future__ import annotations

from typing import TYPE_CHECKING

from src.encoding import ChatEncoder
from src.models import BaseModel
from src.prediction import Answer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class AnswerReader:
    """Knows the tokens that end an answer: the chat template's, and those of the model's own generation settings."""

    def __init__(self, base: BaseModel, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self.end_tokens = sorted(ChatEncoder(tokenizer).end_tokens | base.end_tokens())

    def read(self, generated: list[int]) -> Answer:
        """The text before the first token that ends an answer."""
        end = next((index for index, token in enumerate(generated) if token in self.end_tokens), None)
        text = self.tokenizer.decode(generated[:end], skip_special_tokens=True)
        return Answer(text.strip(), cut_off=end is None)
