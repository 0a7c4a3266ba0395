"""How long a set's examples are in tokens, under a model's chat template: what decides truncation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from src.errors import UserError
from src.models import BaseModel
from src.preparation.quality import PreparedExample
from src.prompts import instruction, user_turn
from src.tasks import Task

if TYPE_CHECKING:
    from src.encoding import ChatEncoder

LIMIT = 512  # tokens of a sequence: the default of run_experiment.py's --max_length
_AT_A_TIME = 2000


@dataclass(frozen=True)
class Lengths:
    """Mean and maximum in tokens, and the share of examples above LIMIT."""

    mean: float
    maximum: int
    share_over_limit: float

    @classmethod
    def of(cls, lengths: list[int]) -> Lengths:
        over = sum(length > LIMIT for length in lengths)
        return cls(round(sum(lengths) / len(lengths), 1), max(lengths), over / len(lengths))


def lengths_under(
    encoder: ChatEncoder, splits: dict[str, list[PreparedExample]], tasks: tuple[Task, ...]
) -> dict[str, dict[str, Any]]:
    """By split: the lengths of the prompts, and of prompts with their targets, as they are trained on."""
    asked = instruction(tasks)
    found = {}
    for split, examples in splits.items():
        prompts, whole = [], []
        for some in _some_at_a_time(examples):
            of_prompts = encoder.question_lengths([user_turn(asked, example.input) for example in some])
            of_targets = encoder.target_lengths([example.target for example in some])
            prompts += of_prompts
            whole += [prompt + target for prompt, target in zip(of_prompts, of_targets, strict=True)]
        found[split] = {"prompt": asdict(Lengths.of(prompts)), "prompt_and_target": asdict(Lengths.of(whole))}
    return found


def encoder_of(model: str) -> ChatEncoder | str:
    """A model's encoder, or why there is none: lengths are a report, for which nothing else has to wait."""
    from src.encoding import ChatEncoder

    try:
        return ChatEncoder(BaseModel(model).tokenizer())
    except UserError as error:
        return error.mistakes[0]


def _some_at_a_time(examples: list[PreparedExample]) -> Iterator[list[PreparedExample]]:
    for start in range(0, len(examples), _AT_A_TIME):
        yield examples[start : start + _AT_A_TIME]
