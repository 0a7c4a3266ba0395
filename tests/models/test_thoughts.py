"""Models that think before they answer: an empty thought of the template is neither learned nor generated, and none is scored.

A thought that the template opens is closed, and then it is such an empty one.
"""

from __future__ import annotations

import pytest

from compositional.data import Example
from compositional.models.chat import IGNORED, ChatEncoder, demonstration
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
# DeepSeek-R1's way, here in ChatML: the generation prompt opens a thought, and answers are rendered without one.
OPENED = QWEN_TEMPLATE.replace("+ message.content", "+ message.content.split('</think>')[-1]").replace(
    "{{- '<|im_start|>assistant\\n' }}{%- endif %}", "{{- '<|im_start|>assistant\\n<think>\\n' }}{%- endif %}"
)
# Without a line break, and with the opening in each answer.
OPENED_ALWAYS = OPENED.replace("<think>\\n' }}", "<think>' }}").replace(
    "message.role + '\\n' +", "message.role + '\\n' + ('<think>' if message.role == 'assistant' else '') +"
)
# Qwen3-Thinking's: the last answer has an empty thought, behind the opening.
OPENED_AND_CLOSED = ALWAYS.replace("{{- '<|im_start|>assistant\\n' }}", "{{- '<|im_start|>assistant\\n<think>\\n' }}")
TEMPLATES = {
    "a switch": ASKED,
    "no switch": ALWAYS,
    "opened by the prompt": OPENED,
    "opened by prompt and answer": OPENED_ALWAYS,
    "opened by the prompt, closed by the answer": OPENED_AND_CLOSED,
}


@pytest.fixture(params=TEMPLATES.values(), ids=TEMPLATES)
def tokenizer(request, tiny_tokenizer):
    return with_template(tiny_tokenizer, request.param, "<|im_start|>", "<|im_end|>", eos="<|im_end|>")


def test_the_templates_differ_from_one_that_does_not_think(tokenizer):
    turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "No."}]
    rendered = tokenizer.apply_chat_template(turns, tokenize=False)
    prompt = tokenizer.apply_chat_template(turns[:1], tokenize=False, add_generation_prompt=True)
    assert BLOCK + "No." in rendered or prompt.rstrip().endswith("<think>")


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


@pytest.mark.parametrize("end", ["<|im_end|>", "<｜end▁of▁sentence｜>"])
def test_deepseek_r1s_template_learns_and_predicts_an_answer_after_an_empty_thought(end, tiny_tokenizer):
    """Its token at the end of a turn need not be the tokenizer's own at the end of a text."""
    template = (
        "{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}"
        "{%- for message in messages %}{%- if message['role'] == 'user' %}{{'<｜User｜>' + message['content']}}{%- endif %}"
        "{%- if message['role'] == 'assistant' and message['content'] is not none %}{% set content = message['content'] %}"
        "{% if '</think>' in content %}{% set content = content.split('</think>')[-1] %}{% endif %}"
        "{{'<｜Assistant｜>' + content + '" + end + "'}}{%- endif %}{%- endfor -%}"
        "{% if add_generation_prompt %}{{'<｜Assistant｜><think>\\n'}}{% endif %}"
    )
    eos = end if end != "<|im_end|>" else None
    tokenizer = with_template(tiny_tokenizer, template, "<｜User｜>", "<｜Assistant｜>", end, eos=eos)
    encoder = ChatEncoder(tokenizer, demonstration("Do", "A", "B"))
    asked = tokenizer.decode(encoder.prompt("Do", "C", 500).ids)
    assert asked == f"<｜User｜>Do:\n\nA<｜Assistant｜>B{end}<｜User｜>Do:\n\nC<｜Assistant｜>{BLOCK}"
    sequence = ChatEncoder(tokenizer).training_sequence("Do", Example("a", "C", "D"), 500, False)
    assert tokenizer.decode(sequence.ids) == f"<｜User｜>Do:\n\nC<｜Assistant｜>{BLOCK}D{end}"
    learned = [token for token, label in zip(sequence.ids, sequence.labels, strict=True) if label != IGNORED]
    assert tokenizer.decode(learned) == f"D{end}"


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
