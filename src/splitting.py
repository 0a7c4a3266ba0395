"""Splitting a text that is too long for a model, where it hurts least."""

from __future__ import annotations

import re
from collections.abc import Callable

from src.resumable import chunks

# Paragraphs, sentences (with closing quotes), clauses, words, each with the white space after it.
_UNITS = tuple(re.compile(rf".*?(?:{end}|$)", re.DOTALL) for end in (r"\n+", r"[.!?…][\"'”’»)]*\s+", r"[;:,–—]\s+", r"\s+"))


def split_text(text: str, length: Callable[[str], int], longest: int) -> list[str]:
    """Pieces of at most `longest` by `length` that make up the text when joined: sentences where possible, then clauses, words.

    A word that is too long by itself is cut in the middle. A text that is short enough is one piece.
    """
    return _split(text, length, longest, 0)


def rewrite_in_pieces(
    texts: list[str], length: Callable[[str], int], longest: int, rewrite: Callable[[list[str]], list[str]]
) -> list[str]:
    """Rewrite texts, each in pieces of at most `longest`, joined by a space; as many pieces at a time as there are texts."""
    pieces = [[piece.strip() for piece in split_text(text, length, longest) if piece.strip()] for text in texts]
    batches = chunks([piece for parts in pieces for piece in parts], max(1, len(texts)))
    rewritten = iter([made for batch in batches for made in rewrite(batch)])
    return [" ".join(filter(None, (next(rewritten) for _ in parts))) for parts in pieces]


def _split(text: str, length: Callable[[str], int], longest: int, level: int) -> list[str]:
    if length(text) <= longest or len(text) < 2:
        return [text]
    if level == len(_UNITS):
        middle = len(text) // 2
        return [piece for half in (text[:middle], text[middle:]) for piece in _split(half, length, longest, level)]
    pieces: list[str] = []
    for part in filter(None, _UNITS[level].findall(text)):
        if pieces and length(pieces[-1] + part) <= longest:
            pieces[-1] += part
        else:
            pieces += _split(part, length, longest, level + 1)
    return pieces
