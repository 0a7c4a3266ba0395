"""Any text as a prompt or a target: the limit holds, the instruction is whole, and no text becomes a control token."""

from __future__ import annotations

import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compositional.data import Example
from compositional.models.chat import IGNORED, ChatEncoder, demonstration
from helpers.chat_models import chat_tokenizer
from helpers.encoding import QWEN_TEMPLATE
from helpers.properties import result_or_mistakes

MARKS = ("<|end|>", "<|user|>", "<|assistant|>", "<|pad|>", "<|im_start|>", "<|im_end|>", "<|im_end|>\n<|im_start|>assistant\n")
# Characters without lone surrogates, which no text of a data set has; marks of templates; and words that make long texts.
WORDS = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
    st.sampled_from(MARKS),
    st.sampled_from(["<|", "|>", "<|en", "d|>", "Anna: ", "I will buy a red bike. ", "你好", "🎉👩🏽‍🚀", "\r\n", "\0", " "]),
)
TEXTS = st.lists(WORDS, max_size=24).map("".join)
LIMITS = st.integers(1, 160)
INSTRUCTION = "Summarize the following text"


@pytest.fixture(scope="module", params=["of Pocket", "of ChatML", "of ChatML, with a solved example"])
def encoder(request, tiny_tokenizer) -> ChatEncoder:
    if request.param == "of Pocket":
        return ChatEncoder(copy.deepcopy(tiny_tokenizer))
    solved = demonstration(INSTRUCTION, "Tom: Bye.<|im_end|>", "Tom leaves.") if "solved" in request.param else []
    return ChatEncoder(chat_tokenizer(tiny_tokenizer, QWEN_TEMPLATE), solved)


def specials_of(encoder: ChatEncoder, ids: list[int]) -> list[int]:
    special = {id for id, token in encoder.tokenizer.added_tokens_decoder.items() if token.special}
    return [id for id in ids if id in special]


def around_the_text(encoder: ChatEncoder) -> tuple[str, str]:
    """What a prompt has before its text, and after it."""
    before, after = encoder.tokenizer.decode(encoder.prompt(INSTRUCTION, "@", 1000).ids).split("@")
    return before, after


@given(text=TEXTS, limit=LIMITS)
def test_a_prompt_keeps_to_the_limit_and_holds_the_instruction_and_the_text_or_its_beginning(encoder, text, limit):
    empty = encoder.prompt(INSTRUCTION, "", 1000).ids
    prompt, mistakes = result_or_mistakes(encoder.prompt, INSTRUCTION, text, limit)
    if mistakes:
        assert limit <= len(empty), "there was room for a text"
        assert "raise the maximum length" in mistakes[0]
        return
    assert len(prompt.ids) <= limit
    before, after = around_the_text(encoder)
    decoded = encoder.tokenizer.decode(prompt.ids)
    assert decoded.startswith(before)
    assert decoded.endswith(after)
    kept = decoded[len(before) : len(decoded) - len(after)]
    if prompt.truncated:
        assert text.startswith(kept)
        assert kept != text
        assert len(prompt.ids) >= limit - 12, "much room was left"
    else:
        assert kept == text


@given(text=TEXTS, limit=LIMITS)
def test_a_prompt_has_the_special_tokens_of_its_template_and_no_others(encoder, text, limit):
    empty = encoder.prompt(INSTRUCTION, "", 1000).ids
    prompt = encoder.prompt(INSTRUCTION, text, len(empty) + limit)
    assert specials_of(encoder, prompt.ids) == specials_of(encoder, empty)


@given(text=TEXTS)
def test_a_target_is_its_text_and_one_token_that_ends_it(encoder, text):
    target = encoder.target(text)
    assert specials_of(encoder, target) == target[-1:]
    assert target[-1] in encoder.end_tokens
    assert encoder.tokenizer.decode(target[:-1]) == text
    assert encoder.target_lengths([text, "", text]) == [len(target), 1, len(target)]


@given(text=TEXTS, reference=TEXTS, limit=LIMITS, train_on_source=st.booleans())
def test_a_training_sequence_keeps_to_the_limit_and_is_the_prompt_and_the_target_or_its_beginning(
    encoder, text, reference, limit, train_on_source
):
    target = encoder.target(reference)
    example = Example("0", text, reference)
    sequence, mistakes = result_or_mistakes(encoder.training_sequence, INSTRUCTION, example, limit, train_on_source)
    if mistakes:
        assert "raise the maximum length" in mistakes[0]
        return
    assert len(sequence.ids) == len(sequence.labels) <= limit
    labels = [label for label in sequence.labels if label != IGNORED]
    assert labels == sequence.ids[-len(labels) :]
    length = len(sequence.ids) - 1 if train_on_source else sequence.target_length
    assert sequence.target_length == length
    kept = next(size for size in range(len(target), 0, -1) if sequence.ids[-size:] == target[:size])
    prompt = encoder.prompt(INSTRUCTION, text, limit - kept)
    assert sequence.ids == prompt.ids + target[:kept]
    assert sequence.truncated == (prompt.truncated or kept < len(target))
    assert kept == len(target) or kept >= limit // 2
