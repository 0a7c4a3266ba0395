"""Chat templates, and texts that are hard to cut."""

from __future__ import annotations

import copy

QWEN_TEMPLATE = (
    "{%- if messages[0]['role'] != 'system' %}{{- '<|im_start|>system\\nYou are Qwen.<|im_end|>\\n' }}{%- endif %}"
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)
TEXTS = {
    "words": "Anna: I will buy a red bike at the market on Monday. " * 30,
    "many bytes a character": "Zoë ¿qué? 你好 🎉 … 👩🏽‍🚀 " * 30,
    "one long word": "🎉" * 200,
    "lines": "Tom: Hi!\n\nLucy: Hello.\n" * 40,
}


def with_template(tokenizer, template: str, *marks: str, eos: str | None = None):
    """A copy of the tokenizer with another chat template and further special tokens."""
    changed = copy.deepcopy(tokenizer)
    changed.add_tokens(list(marks), special_tokens=True)
    changed.chat_template = template
    if eos:
        changed.eos_token = eos
    return changed
