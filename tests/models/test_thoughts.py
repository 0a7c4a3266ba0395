"""Models that think before they answer: an empty thought of the template is neither learned nor generated, and none is scored."""

from __future__ import annotations

import pytest

from compositional.data import Example
from compositional.models.chat import IGNORED, ChatEncoder
from compositional.models.model import Model
from compositional.prediction import AnswerReader
from helpers.chat_models import build_scripted_model
from helpers.encoding import QWEN_TEMPLATE, with_template

EMPTY = "<think>\\n\\n</think>\\n\\n"
# Qwen3's way: the last answer has a block, and the generation prompt has one where thinking is not enabled.
ASKED = QWEN_TEMPLATE.replace(
    "{{- '<|im_start|>' + message.role + '\\n' + message.content",
    "{{- '<|im_start|>' + message.role + '\\n' + ('" + EMPTY + "' if message.role == 'assistant' and loop.last else '') "
    "+ message.content",
).replace(
    "{{- '<|im_start|>assistant\\n' }}{%- endif %}",
    "{{- '<|im_start|>assistant\\n' }}"
    "{%- if enable_thinking is defined and enable_thinking is false %}{{- '" + EMPTY + "' }}{%- endif %}{%- endif %}",
)
# Another way: a block before every answer, and no switch.
ALWAYS = ASKED.replace("{%- if enable_thinking is defined and enable_thinking is false %}{{- '" + EMPTY + "' }}{%- endif %}", "")
BLOCK = EMPTY.replace("\\n", "\n")


@pytest.fixture(params=[ASKED, ALWAYS], ids=["a switch", "no switch"])
def tokenizer(request, tiny_tokenizer):
    return with_template(tiny_tokenizer, request.param, "<|im_start|>", "<|im_end|>", eos="<|im_end|>")


def test_the_templates_differ_from_one_that_does_not_think(tokenizer):
    turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "No."}]
    assert BLOCK + "No." in tokenizer.apply_chat_template(turns, tokenize=False)


def test_a_prompt_ends_with_the_empty_thought_and_a_target_begins_after_it(tokenizer):
    encoder = ChatEncoder(tokenizer)
    prompt = tokenizer.decode(encoder.prompt("Summarize the following text", "A text.", 500).ids)
    assert prompt.endswith(f"<|im_start|>assistant\n{BLOCK}")
    assert prompt.count("<think>") == 1
    assert tokenizer.decode(encoder.target("A summary.")) == "A summary.<|im_end|>"
    sequence = encoder.training_sequence("Summarize the following text", Example("a", "A text.", "A summary."), 500, False)
    learned = [token for token, label in zip(sequence.ids, sequence.labels, strict=True) if label != IGNORED]
    assert tokenizer.decode(learned) == "A summary.<|im_end|>"
    assert tokenizer.decode(sequence.ids[: -len(learned)]) == prompt


def test_a_template_without_thoughts_is_left_as_it_is(tiny_tokenizer):
    tokenizer = with_template(tiny_tokenizer, QWEN_TEMPLATE, "<|im_start|>", "<|im_end|>")
    prompt = tokenizer.decode(ChatEncoder(tokenizer).prompt("Do", "A text.", 500).ids)
    assert prompt.endswith("A text.<|im_end|>\n<|im_start|>assistant\n")


@pytest.mark.parametrize("special", [True, False], ids=["special tokens", "plain text"])
@pytest.mark.parametrize(
    ("said", "output"),
    [
        ("<think>\nHm.\n</think>\n\nA summary.", "A summary."),
        ("\n<think></think>A summary.", "A summary."),
        ("<think>\nIt goes on and on", ""),
        ("A summary </think> of it.", "A summary </think> of it."),
        ("I <think> so.", "I <think> so."),
    ],
)
def test_a_thought_before_an_answer_is_no_part_of_the_output(said, output, special, tiny_tokenizer, tmp_path):
    marks = ("<think>", "</think>") if special else ()
    tokenizer = with_template(tiny_tokenizer, QWEN_TEMPLATE, "<|im_start|>", "<|im_end|>", *marks)
    base = Model(str(build_scripted_model(tmp_path / "base", tokenizer, [5, 6])))
    ids = tokenizer(said, add_special_tokens=False)["input_ids"]
    answer = AnswerReader(base, tokenizer).read([*ids, tokenizer.eos_token_id])
    visible = (
        output if not special or said.lstrip().startswith("<think>") else output.replace("<think>", "").replace("</think>", "")
    )
    assert " ".join(answer.text.split()) == " ".join(visible.split())
    assert answer.tokens == tuple(ids)
    assert not answer.cut_off
