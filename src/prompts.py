"""What a model is asked: instructions for single and composed tasks, solved examples, and their chat messages.

Layout (the paper's later code base): an instruction line, a colon, a blank line and the text, in the user's turn, without
a system prompt.
"""

from __future__ import annotations

from src.tasks import Task

# Llama 3.2's template puts today's date into every prompt unless it is given one; this is the template's own fallback.
TEMPLATE_DATE = "26 Jul 2024"


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
    return f"{instruction}:\n\n{text}"
