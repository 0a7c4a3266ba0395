"""Prompts and targets as token ids: layout, cuts, and the loss."""

from __future__ import annotations

import copy

import pytest

from compositional.core.errors import UserError
from compositional.data import Example
from compositional.models.chat import IGNORED, ChatEncoder, check_tokenizer, instruction, left_padded
from compositional.tasks import find_task
from helpers.encoding import QWEN_TEMPLATE, TEXTS, with_template

SUMMARIZE = "Summarize the following text"
LLAMA_TEMPLATE = (
    "{%- if not date_string is defined %}"
    "{%- if strftime_now is defined %}{%- set date_string = strftime_now('%d %b %Y') %}"
    "{%- else %}{%- set date_string = '1 Jan 1970' %}{%- endif %}"
    "{%- endif %}"
    "{{- 'Today Date: ' + date_string + '\\n' }}"
    "{%- for message in messages %}{{- '<|' + message['role'] + '|>' + message['content'] | trim + '<|eot_id|>' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|assistant|>' }}{%- endif %}"
)
REWRITING_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' }}"
    "{% if loop.last and message['role'] == 'assistant' %}{{ 'so: ' }}{% endif %}{{ message['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>think: ' }}{% endif %}"
)


@pytest.fixture(scope="module")
def encoder(tiny_tokenizer) -> ChatEncoder:
    return ChatEncoder(tiny_tokenizer)


def ids_of(tokenizer, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


# ---- prompts


def test_a_prompt_is_instruction_colon_blank_line_and_text_in_the_users_turn(encoder, tiny_tokenizer):
    prompt = encoder.prompt(SUMMARIZE, "Tom: Hi!\nLucy: ¿Qué?", 512)
    assert tiny_tokenizer.decode(prompt.ids) == (
        "<|user|>Summarize the following text:\n\nTom: Hi!\nLucy: ¿Qué?<|end|><|assistant|>"
    )
    assert not prompt.truncated


@pytest.mark.parametrize(
    ("tasks", "style", "expected"),
    [
        ([("summarization", None)], "compositional", "Summarize the following text"),
        ([("reply", None)], "compositional", "Suggest a reply for the following text"),
        ([("translation", "es")], "compositional", "Translate the following text to Spanish"),
        ([("tone_adjustment", "witty")], "empty", "Rewrite the following text in a witty tone"),
        (
            [("summarization", None), ("translation", "de")],
            "compositional",
            "Summarize the following text, then translate it to German",
        ),
        (
            [("reply", None), ("tone_adjustment", "paraphrase")],
            "compositional",
            "Suggest a reply for the following text, then paraphrase it",
        ),
        ([("summarization", None), ("translation", "de")], "empty", "Summarize the following text"),
    ],
)
def test_instructions_of_single_and_composed_tasks(tasks, style, expected):
    assert instruction(tuple(find_task(*task) for task in tasks), style) == expected


@pytest.mark.parametrize("kind", TEXTS)
def test_a_long_prompt_loses_the_end_of_its_text_and_nothing_else(kind, encoder, tiny_tokenizer):
    text, start, end = TEXTS[kind], f"<|user|>{SUMMARIZE}:\n\n", "<|end|><|assistant|>"
    overhead = len(ids_of(tiny_tokenizer, start + end))
    kept_lengths = []
    for limit in (overhead + 1, overhead + 2, overhead + 3, overhead + 7, overhead + 20, 64, 65, 66, 67, 100, 128):
        prompt = encoder.prompt(SUMMARIZE, text, limit)
        assert prompt.truncated
        assert len(prompt.ids) <= limit
        decoded = tiny_tokenizer.decode(prompt.ids)
        assert decoded.startswith(start)
        assert decoded.endswith(end)
        kept = decoded[len(start) : len(decoded) - len(end)]
        assert text.startswith(kept)
        assert len(prompt.ids) >= limit - 8, (limit, len(prompt.ids))
        kept_lengths.append(len(kept))
    assert kept_lengths[-1] > kept_lengths[3] > 0


def test_a_prompt_that_just_fits_is_whole(encoder):
    whole = encoder.prompt(SUMMARIZE, TEXTS["words"], 10_000)
    assert not whole.truncated
    assert encoder.prompt(SUMMARIZE, TEXTS["words"], len(whole.ids)) == whole
    shorter = encoder.prompt(SUMMARIZE, TEXTS["words"], len(whole.ids) - 1)
    assert shorter.truncated
    assert len(shorter.ids) < len(whole.ids)


def test_an_instruction_that_does_not_fit_is_a_mistake(encoder, tiny_tokenizer):
    overhead = len(ids_of(tiny_tokenizer, f"<|user|>{SUMMARIZE}:\n\n<|end|><|assistant|>"))
    with pytest.raises(UserError, match=f"take {overhead} tokens of {overhead - 1}: raise the maximum length"):
        encoder.prompt(SUMMARIZE, "Some text.", overhead - 1)
    with pytest.raises(UserError, match="raise the maximum length"):
        encoder.training_sequence(SUMMARIZE, Example("0", "Some text.", "A summary."), overhead, train_on_source=False)


# ---- targets


@pytest.mark.parametrize("text", ["Anna left.", "¿Qué? 你好 🎉", "two\nlines"])
def test_a_target_is_its_text_and_the_end_token(text, encoder, tiny_tokenizer):
    target = encoder.target(text)
    assert target == [*ids_of(tiny_tokenizer, text), tiny_tokenizer.eos_token_id]


@pytest.mark.parametrize("eos", [None, "<|im_end|>"])
def test_a_chatml_target_ends_at_the_end_of_the_turn_without_the_line_break_after_it(eos, tiny_tokenizer):
    tokenizer = with_template(tiny_tokenizer, QWEN_TEMPLATE, "<|im_start|>", "<|im_end|>", eos=eos)
    encoder = ChatEncoder(tokenizer)
    target = encoder.target("Anna left.")
    assert target == [*ids_of(tokenizer, "Anna left."), tokenizer.convert_tokens_to_ids("<|im_end|>")]
    assert target[-1] in encoder.end_tokens
    prompt = tokenizer.decode(encoder.prompt(SUMMARIZE, "Tom: Hi!", 512).ids)
    assert prompt == (
        "<|im_start|>system\nYou are Qwen.<|im_end|>\n<|im_start|>user\nSummarize the following text:\n\nTom: Hi!<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_prompt_and_target_together_are_what_the_template_renders(tiny_tokenizer):
    tokenizer = with_template(tiny_tokenizer, QWEN_TEMPLATE, "<|im_start|>", "<|im_end|>")
    encoder = ChatEncoder(tokenizer)
    ids = encoder.training_sequence(SUMMARIZE, Example("0", "Tom: Hi!", "Tom greets."), 512, False).ids
    chat = [{"role": "user", "content": f"{SUMMARIZE}:\n\nTom: Hi!"}, {"role": "assistant", "content": "Tom greets."}]
    assert tokenizer.decode(ids) + "\n" == tokenizer.apply_chat_template(chat, tokenize=False)


def test_a_template_that_rewrites_the_last_turn_gets_the_text_and_the_end_of_text_token(tiny_tokenizer):
    tokenizer = with_template(tiny_tokenizer, REWRITING_TEMPLATE)
    assert ChatEncoder(tokenizer).target("Anna left.") == [*ids_of(tokenizer, "Anna left."), tokenizer.eos_token_id]


def test_a_template_that_prints_the_date_gets_the_same_date_on_every_day(tiny_tokenizer):
    tokenizer = with_template(tiny_tokenizer, LLAMA_TEMPLATE, "<|eot_id|>")
    encoder = ChatEncoder(tokenizer)
    prompt = tokenizer.decode(encoder.prompt(SUMMARIZE, "Tom: Hi!", 512).ids)
    assert prompt == "Today Date: 26 Jul 2024\n<|user|>Summarize the following text:\n\nTom: Hi!<|eot_id|><|assistant|>"
    assert encoder.target("Anna left.") == [*ids_of(tokenizer, "Anna left."), tokenizer.convert_tokens_to_ids("<|eot_id|>")]


DATED = (
    "{%- macro today(format) %}{{ strftime_now(format) }}{%- endmacro %}"
    "{{- 'Today: ' + strftime_now('%Y-%m-%d') + ', ' + today('%A, %d %B %Y %H:%M') + '\\n' }}"
    "{%- for message in messages %}{{- '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|assistant|>' }}{%- endif %}"
)


def test_a_template_that_asks_for_the_time_gets_the_same_on_every_day(tiny_tokenizer):
    """As Mistral's and gpt-oss's templates do, which take no date."""
    tokenizer = with_template(tiny_tokenizer, DATED)
    encoder = ChatEncoder(tokenizer)
    beginning = "Today: 2024-07-26, Friday, 26 July 2024 00:00\n<|user|>"
    assert tokenizer.decode(encoder.prompt(SUMMARIZE, "Tom: Hi!", 512).ids) == (
        f"{beginning}Summarize the following text:\n\nTom: Hi!<|end|><|assistant|>"
    )
    assert tokenizer.decode(encoder.question("?")) == f"{beginning}?<|end|><|assistant|>"
    sequence = encoder.training_sequence(SUMMARIZE, Example("0", "Tom: Hi!", "Tom greets."), 512, False)
    assert tokenizer.decode(sequence.ids).startswith(beginning)
    assert tokenizer.decode(encoder.target("Anna left.")) == "Anna left.<|end|>"


# ---- training sequences


EXAMPLE = Example("0", "Tom: Hi, Lucy!\nLucy: Hello.", "Tom greets Lucy. 🎉")


def test_the_prompt_is_outside_the_loss_unless_asked_for(encoder):
    prompt, target = encoder.prompt(SUMMARIZE, EXAMPLE.input, 512).ids, encoder.target(EXAMPLE.reference)
    sequence = encoder.training_sequence(SUMMARIZE, EXAMPLE, 512, train_on_source=False)
    assert sequence.ids == prompt + target
    assert sequence.labels == [IGNORED] * len(prompt) + target
    assert (sequence.target_length, sequence.truncated) == (len(target), False)
    whole = encoder.training_sequence(SUMMARIZE, EXAMPLE, 512, train_on_source=True)
    assert whole.ids == sequence.ids
    assert whole.labels == [IGNORED, *sequence.ids[1:]], "nothing predicts the first token"
    assert whole.target_length == len(whole.ids) - 1


@pytest.mark.parametrize("limit", [48, 60, 64, 100, 128])
@pytest.mark.parametrize("kind", TEXTS)
def test_a_long_text_is_cut_before_its_target(kind, limit, encoder):
    sequence = encoder.training_sequence(SUMMARIZE, Example("0", TEXTS[kind], "Anna left."), limit, False)
    target = encoder.target("Anna left.")
    assert limit - 8 <= len(sequence.ids) <= limit
    assert len(sequence.labels) == len(sequence.ids)
    assert sequence.ids[-len(target) :] == target == [label for label in sequence.labels if label != IGNORED]
    assert sequence.truncated


def test_an_overlong_target_is_cut_to_what_is_left_or_half(encoder):
    short = Example("0", "Hi!", TEXTS["words"])
    target = encoder.target(short.reference)
    room = 100 - len(encoder.prompt(SUMMARIZE, "Hi!", 100).ids)
    assert room > 50
    sequence = encoder.training_sequence(SUMMARIZE, short, 100, False)
    assert len(sequence.ids) == 100
    assert sequence.truncated
    assert sequence.labels[-room:] == target[:room]
    assert sequence.target_length == room

    both = encoder.training_sequence(SUMMARIZE, Example("0", TEXTS["words"], TEXTS["words"]), 100, False)
    assert (both.target_length, both.truncated) == (50, True)
    assert both.labels[-50:] == target[:50]
    assert len(both.ids) <= 100


def test_a_sequence_that_just_fits_is_whole(encoder):
    whole = encoder.training_sequence(SUMMARIZE, EXAMPLE, 512, False)
    assert encoder.training_sequence(SUMMARIZE, EXAMPLE, len(whole.ids), False) == whole
    assert encoder.training_sequence(SUMMARIZE, EXAMPLE, len(whole.ids) - 1, False).truncated


# ---- tokenizers and padding


def test_a_tokenizer_without_a_chat_template_or_an_end_token_is_refused(tiny_tokenizer):
    plain = copy.deepcopy(tiny_tokenizer)
    plain.chat_template = None
    with pytest.raises(UserError, match="the tokenizer of some/model has no chat template: use an instruction-tuned model"):
        check_tokenizer(plain, "some/model")
    endless = copy.deepcopy(tiny_tokenizer)
    endless.eos_token = None
    with pytest.raises(UserError, match="the tokenizer of some/model has no end-of-text token"):
        check_tokenizer(endless, "some/model")
    check_tokenizer(tiny_tokenizer, "some/model")


def test_end_tokens_are_the_end_of_text_and_the_ends_of_turns(tiny_tokenizer):
    assert ChatEncoder(tiny_tokenizer).end_tokens == {tiny_tokenizer.eos_token_id}
    more = with_template(tiny_tokenizer, QWEN_TEMPLATE, "<|im_start|>", "<|im_end|>")
    assert ChatEncoder(more).end_tokens == {more.eos_token_id, more.convert_tokens_to_ids("<|im_end|>")}


def test_padding_fills_the_front():
    assert left_padded([[1, 2, 3], [4], [5, 6]], 0) == [[1, 2, 3], [0, 0, 4], [0, 5, 6]]
