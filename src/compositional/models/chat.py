"""From text to token ids: instructions, chat prompts, targets, and truncation, which is reported.

Layout (the paper's later code base): the user's turn holds an instruction, a colon, a blank line and the text. There is no
system prompt.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING

from compositional.core.errors import UserError, first_line
from compositional.data import Example
from compositional.tasks import Task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Templates that print today's date (`strftime_now`) print this day's, so that prompts are the same on every day. Llama 3.2's
# template takes a date, too; this day is its own fallback.
TEMPLATE_DAY = date(2024, 7, 26)
TEMPLATE_DATE = f"{TEMPLATE_DAY:%d %b %Y}"


def instruction(tasks: tuple[Task, ...], prompt_style: str = "compositional") -> str:
    """The instruction for one task, or for a main task and auxiliary ones; "empty" leaves the auxiliary ones out."""
    main, *auxiliary = tasks
    if prompt_style == "empty":
        return main.instruction
    return ", ".join([main.instruction, *(task.continuation for task in auxiliary)])


def demonstration(instruction: str, text: str, answer: str) -> list[dict[str, str]]:
    """A solved example as chat turns, for in-context learning."""
    return [{"role": "user", "content": user_turn(instruction, text)}, {"role": "assistant", "content": answer}]


def user_turn(instruction: str, text: str) -> str:
    """The content of the user's turn."""
    return f"{instruction}:\n\n{text}"


IGNORED = -100
# Models that think aloud before they answer write this around it.
THOUGHT, END_OF_THOUGHT = "<think>", "</think>"
# Parts the marks of special tokens in a text, see `ChatEncoder._as_text`. Unicode keeps these characters free for such use.
_PARTING = "\ufdd0\ufdd1"


@dataclass(frozen=True)
class Prompt:
    """Token ids of a prompt, up to the start of the answer. `truncated` says whether the text was truncated."""

    ids: list[int]
    truncated: bool


@dataclass(frozen=True)
class TrainingSequence:
    """Token ids of prompt and target, and labels of equal length with IGNORED where there is no loss.

    `merge_index` is the number of the merge that processes the example, if a calibration is shared by several merges.
    """

    ids: list[int]
    labels: list[int]
    truncated: bool
    merge_index: int | None = None

    @property
    def target_length(self) -> int:
        """Tokens from the first label to the end; 0 without labels."""
        end = len(self.labels)
        return end - next((index for index, label in enumerate(self.labels) if label != IGNORED), end)


class ChatEncoder:
    """Encodes prompts and targets by a tokenizer's chat template. `demonstrations` are chat turns before each question.

    Special tokens come from the template alone. A text that has the mark of one, such as <|im_end|>, has it as plain characters.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, demonstrations: Sequence[dict[str, str]] = ()) -> None:
        self.tokenizer = tokenizer
        self._demonstrations = list(demonstrations)
        self.end_tokens = _end_tokens(tokenizer)
        self._marks = _marks_of_special_tokens(tokenizer)
        self._question = [{"role": "user", "content": "?"}]
        self._opening = ""
        self._opening = self._opening_of_answers()
        self._prefix = self._start(self._question)
        start = self._prefix.removesuffix(self._opening)
        # A template whose generation prompt opens a thought may render an answer with that opening, or without it.
        opened = [start, start.rstrip().removesuffix(THOUGHT)] if _opens_thought(start) else []
        self._before_answers = [self._prefix, *opened]

    def prompt(self, instruction: str, text: str, max_length: int) -> Prompt:
        """A chat prompt of at most `max_length` tokens. A longer prompt loses the end of its text, but no instruction or template.

        Raises UserError when instruction and template alone are too long.
        """
        ids = self._chat_ids(instruction, text)
        if len(ids) <= max_length:
            return Prompt(ids, truncated=False)
        overhead = self.check_room(instruction, max_length)
        options = {"add_special_tokens": False, "split_special_tokens": True}
        offsets = self.tokenizer(text, return_offsets_mapping=True, **options)["offset_mapping"]
        kept = min(len(offsets), max_length - overhead)
        while len(ids) > max_length:
            ids = self._chat_ids(instruction, text[: offsets[kept - 1][1]] if kept > 0 else "")
            kept -= max(1, len(ids) - max_length)
        return Prompt(ids, truncated=True)

    def conversation(self, content: str) -> str:
        """A user's turn and an answer to it, as the template renders them."""
        return self._render([{"role": "user", "content": content}, {"role": "assistant", "content": "Yes"}], False)

    @property
    def demonstrations_length(self) -> int:
        """The tokens that the demonstrations add to a prompt."""
        return len(self.question("?")) - len(self._ids(self._prefix))

    def check_room(self, instruction: str, max_length: int) -> int:
        """The number of tokens of a prompt without text; raises UserError when they leave no room for text."""
        overhead = len(self._chat_ids(instruction, ""))
        if overhead >= max_length:
            solved = f", {len(self._demonstrations) // 2} solved examples" if self._demonstrations else ""
            raise UserError(
                f"{instruction!r}{solved} and the chat template take {overhead} tokens of {max_length}: raise the maximum length"
            )
        return overhead

    def training_sequence(self, instruction: str, example: Example, max_length: int, train_on_source: bool) -> TrainingSequence:
        """Prompt and target, at most `max_length` tokens together: the text is truncated first, then a target over half of that."""
        target = self.target(example.reference)
        room = max_length - len(self._chat_ids(instruction, example.input))
        kept_target = target[: max(room, max_length // 2)]
        prompt = self.prompt(instruction, example.input, max_length - len(kept_target))
        # Nothing predicts the first token.
        source = [IGNORED, *prompt.ids[1:]] if train_on_source else [IGNORED] * len(prompt.ids)
        labels = source + kept_target
        return TrainingSequence(prompt.ids + kept_target, labels, prompt.truncated or len(kept_target) < len(target))

    def target(self, text: str) -> list[int]:
        """The target's tokens as an assistant's turn of the chat template, up to and including the token that ends the turn."""
        return self._up_to_end(self._ids(self._answer(text)))

    def target_lengths(self, texts: list[str]) -> list[int]:
        """The number of tokens that `target` gives for each text."""
        return [len(self._up_to_end(ids)) for ids in self._ids([self._answer(text) for text in texts])]

    def question(self, content: str) -> list[int]:
        """Token ids of a chat prompt whose user's turn is `content`, without truncation."""
        return self._ids(self._question_text(content))

    def question_lengths(self, contents: list[str]) -> list[int]:
        """The number of tokens that `question` gives for each content."""
        return [len(ids) for ids in self._ids([self._question_text(content) for content in contents])]

    def _answer(self, text: str) -> str:
        """An answer as the template renders it, up to the end of the conversation."""
        text = self._as_text(text)
        rendered = self._render([*self._question, {"role": "assistant", "content": text}], add_generation_prompt=False)
        for before in self._before_answers:
            if rendered.startswith(before):
                return rendered[len(before) :]
        # Some templates rewrite the last turn (strip it, add a thought). Then use the plain text and the end-of-text token.
        return text + self.tokenizer.eos_token

    def _up_to_end(self, ids: list[int]) -> list[int]:
        """An answer's tokens up to and including the last one that ends a turn. Without such a token, end-of-text is added."""
        ends = [index for index, token in enumerate(ids) if token in self.end_tokens]
        return ids[: ends[-1] + 1] if ends else [*ids, self.tokenizer.eos_token_id]

    def _question_text(self, content: str) -> str:
        turns = [*self._demonstrations, {"role": "user", "content": content}]
        return self._start([turn | {"content": self._as_text(turn["content"])} for turn in turns])

    def _start(self, messages: list[dict[str, str]]) -> str:
        """A conversation up to where the assistant's answer begins."""
        return self._render(messages, add_generation_prompt=True) + self._opening

    def _opening_of_answers(self) -> str:
        """What some templates put before each answer, such as an empty thought; "" for other templates.

        It belongs to the prompt: it is neither learned nor generated. A thought that the generation prompt opens, as DeepSeek-R1's,
        is closed here, since the answer begins after it.
        """
        start, answer = self._start(self._question), "An answer."
        rendered = self._render([*self._question, {"role": "assistant", "content": answer}], add_generation_prompt=False)
        before, found, _ = rendered.removeprefix(start).partition(answer)
        if found and rendered.startswith(start) and before.strip():
            return before
        if _opens_thought(start):
            return ("" if start.endswith("\n") else "\n") + f"\n{END_OF_THOUGHT}\n\n"
        return ""

    def _ids(self, text: str | list[str]) -> list:
        """Token ids of a rendered conversation, or of each of several."""
        if isinstance(text, list):
            parts = [one.split(_PARTING) for one in text]
            ids = iter(self.tokenizer([part for some in parts for part in some], add_special_tokens=False)["input_ids"])
            return [[token for _ in some for token in next(ids)] for some in parts]
        return self._ids([text])[0]

    def _as_text(self, text: str) -> str:
        """A text whose marks of special tokens are parted, so that `_ids` takes them for plain characters."""
        text = text.replace(_PARTING, _PARTING[0] + _PARTING + _PARTING[1])
        while self._marks.search(text):
            text = self._marks.sub(lambda mark: f"{mark[0][0]}{_PARTING}{mark[0][1:]}", text)
        return text

    def _chat_ids(self, instruction: str, text: str) -> list[int]:
        return self.question(user_turn(instruction, text))

    def _render(self, messages: list[dict[str, str]], add_generation_prompt: bool) -> str:
        """The conversation in the template; raises UserError for whatever the template, a program of its own, raises."""
        try:
            return self.tokenizer.apply_chat_template(
                messages,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                enable_thinking=False,
                date_string=TEMPLATE_DATE,
                strftime_now=TEMPLATE_DAY.strftime,
            )
        except Exception as error:
            template = f"the chat template of {self.tokenizer.name_or_path or 'the tokenizer'}"
            raise UserError(f"{template} can't be used: {first_line(error)} ({type(error).__name__})") from error


def _opens_thought(prompt: str) -> bool:
    return prompt.rstrip().endswith(THOUGHT)


def _end_tokens(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Token ids that end an answer: the tokenizer's own and, where the vocabulary has them, the ends of a turn and of a text.

    The tokenizer's own is one of these only. SmolLM2's is the end of a turn, StableLM's the end of a text.
    """
    vocabulary = tokenizer.get_vocab()
    marks = {vocabulary[mark] for mark in ("<|im_end|>", "<|eot_id|>", "<|endoftext|>") if mark in vocabulary}
    return frozenset({tokenizer.eos_token_id} | marks)


def _marks_of_special_tokens(tokenizer: PreTrainedTokenizerBase) -> re.Pattern[str]:
    """What the tokenizer takes for a special token wherever it stands in a text."""
    marks = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special and len(token.content) > 1]
    return re.compile("|".join(re.escape(mark) for mark in sorted(marks, key=len, reverse=True)) or r"(?!)")


_PROBE = "Hello"


def check_tokenizer(tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Raise UserError for a tokenizer that can't prompt a model: it needs an end-of-text token and a chat template that works."""
    if not tokenizer.chat_template:
        raise UserError(f"the tokenizer of {name} has no chat template: use an instruction-tuned model")
    if tokenizer.eos_token_id is None:
        raise UserError(f"the tokenizer of {name} has no end-of-text token")
    templates = tokenizer.chat_template
    if isinstance(templates, dict) and "default" not in templates:
        raise UserError(f"the tokenizer of {name} has several chat templates ({', '.join(templates)}) and none named default")
    if _PROBE not in ChatEncoder(tokenizer).conversation(_PROBE):
        raise UserError(f"the chat template of {name} leaves out what the user says")


def left_padded(sequences: Sequence[Sequence[int]], fill: int) -> list[list[int]]:
    """The sequences, padded on the left with `fill` to equal length."""
    longest = max(map(len, sequences))
    return [[fill] * (longest - len(sequence)) + list(sequence) for sequence in sequences]
