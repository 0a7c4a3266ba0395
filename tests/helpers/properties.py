"""What property tests share: a result or a refusal, whichever a drawn input leads to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from compositional.core.errors import UserError


def result_or_mistakes(function: Callable[..., Any], *arguments: Any) -> tuple[Any, list[str]]:
    """What a function returns, and no mistakes; or None and the user's mistakes. Other exceptions fail the test."""
    try:
        return function(*arguments), []
    except UserError as error:
        mistakes = list(error.mistakes)
    assert mistakes, "a refusal says nothing"
    assert all(mistake.strip() for mistake in mistakes)
    return None, mistakes
