"""Splitting a text that is too long for a model, where it hurts least."""

from __future__ import annotations

import re
from collections.abc import Callable

# Between paragraphs, sentences, clauses, words; the white space goes with what stands before it.
_SEAMS = (r"(?<=\n)(?=[^\n])", r"(?<=[.!?…]\s)(?=\S)", r"(?<=[;:,–—]\s)(?=\S)", r"(?<=\s)(?=\S)")


def split_text(text: str, length: Callable[[str], int], longest: int) -> list[str]:
    """Pieces of at most `longest` by `length` that make up the text when joined: sentences where possible, then clauses, words.

    A word that is too long by itself is cut in the middle. A text that is short enough is one piece.
    """
    return _split(text, length, longest, 0)


def _split(text: str, length: Callable[[str], int], longest: int, level: int) -> list[str]:
    if length(text) <= longest or len(text) < 2:
        return [text]
    if level == len(_SEAMS):
        middle = len(text) // 2
        return [piece for half in (text[:middle], text[middle:]) for piece in _split(half, length, longest, level)]
    pieces: list[str] = []
    for part in re.split(_SEAMS[level], text):
        if pieces and length(pieces[-1] + part) <= longest:
            pieces[-1] += part
        else:
            pieces += _split(part, length, longest, level + 1)
    return pieces
