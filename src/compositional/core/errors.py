"""The one exception for a user's mistake: shown as one line per mistake, exit code 2, never as a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any


class UserError(Exception):
    """One or more mistakes of the user. Each is a line that says what is wrong, where, and what to do."""

    def __init__(self, *mistakes: str) -> None:
        super().__init__("\n".join(mistakes))
        self.mistakes = mistakes


class Mistakes(list):
    """Collects UserErrors, so that all of them can be shown at once."""

    def attempt(self, function: Any, *arguments: Any) -> Any:
        """Return the function's result. If it raises UserError, collect its mistakes and return None."""
        try:
            return function(*arguments)
        except UserError as error:
            self.extend(error.mistakes)
            return None

    def when(self, wrong: bool, message: str) -> None:
        """Collect the message if `wrong` is true."""
        if wrong:
            self.append(message)


def first_line(error: Exception) -> str:
    """The first line of another library's message, or the name of the error's class if the message is empty."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def nearest(name: str, known: Iterable[str]) -> str:
    """The known names closest to a misspelt one, as the end of a message: "did you mean ...?"."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    if close:
        return f"did you mean {' or '.join(close)}?"
    return f"known: {', '.join(known)}" if len(known) <= 12 else f"{len(known)} are known, such as {', '.join(known[:6])}"
