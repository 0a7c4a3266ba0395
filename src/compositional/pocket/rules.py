"""Pocket's judge by rule: does a text say what a meaning means, in the style that was asked for?

A text says a meaning in a style when it has as many sentences as the meaning, each sentence of the meaning is said by
exactly one of the text's, in any order, and nothing more is said. Sentences of a text end at . ! ? or an ellipsis.

A text's sentence says a meaning's sentence when its words are those of the grammar's own rendering in that style, in the
same order, but for these liberties:

- Case, Unicode composition, spacing and punctuation (, ; : ' " ¿ ¡ quotation marks, parentheses, dashes, and which of
  . ! ? ends the sentence) don't count. Accents do, and any other character counts as a word.
- One article before a word may be there, be missing or be another one of its language, and adjectives may have any ending
  of the singular. A reaction is a fixed phrase, in which every word counts.
- The place and the time that the sentence names may stand anywhere, each once and as one whole phrase.
- With such a phrase in front, a German statement or offer may have its finite verb before its subject.
- In a tone, places, times and nouns may also be said in neutral English. All the rest must be the tone's own.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from itertools import pairwise

from compositional.pocket.lexicon import ADJECTIVES, NOUNS
from compositional.pocket.meaning import Offer, Reaction, Sentence, Statement, named_adverbials
from compositional.pocket.sentences import render

Words = tuple[str, ...]

_SENTENCE_END = re.compile(r"[.!?…]+")
_WORD = re.compile(r"""\w+|[^\w\s,;:'’"“”„«»¿¡()–—-]""")
_PHRASE = ""  # stands where a phrase was taken out; no word is empty

_ENGLISH_ARTICLES = frozenset({"a", "an", "the"})
_ARTICLES = {
    "es": frozenset({"un", "una", "el", "la"}),
    "fr": frozenset({"un", "une", "le", "la", "l"}),
    "de": frozenset(["ein", "eine", "einen", "einem", "einer", "der", "die", "das", "den", "dem"]),
}

# Words that count as another one: inflected adjectives as their first form, formal nouns as neutral ones.
_COUNTS_AS = {
    "es": {entry.spanish_f: entry.spanish_m for entry in ADJECTIVES.values()},
    "fr": {entry.french_f: entry.french_m for entry in ADJECTIVES.values()},
    "de": {
        f"{entry.german_stem}{end}": entry.german_stem for entry in ADJECTIVES.values() for end in ("e", "en", "er", "es", "em")
    },
    "professional": {entry.formal: noun for noun, entry in NOUNS.items()},
}

# Where an adverbial's phrase in a style is found: the style's own column first.
_COLUMNS = {"es": ("spanish",), "fr": ("french",), "de": ("german",), "casual": ("casual", "english")}


def says(text: str, meaning: tuple[Sentence, ...], style: str) -> bool:
    """Whether a text says all of a meaning and nothing else in a style of `render`, by the rule at the top of this file."""
    unsaid = list(meaning)
    sentences = _sentences(text)
    if len(sentences) != len(unsaid):
        return False
    # Meanings that share one wording share all of them, so whichever of them is struck off first is right.
    for words in sentences:
        said = next((sentence for sentence in unsaid if _says_one(words, sentence, style)), None)
        if said is None:
            return False
        unsaid.remove(said)
    return True


def _says_one(words: Words, sentence: Sentence, style: str) -> bool:
    (reference,) = _sentences(render(sentence, style))
    if isinstance(sentence, Reaction):
        return words == reference
    # Liberties never double a sentence, and taking phrases out of a very long one would be slow.
    if len(words) > 2 * len(reference):
        return False
    spellings = _adverbial_spellings(sentence, style)
    rest = _without_marks(next(_take_out(_comparable(reference, style), spellings)))
    inverted = (rest[1], rest[0], *rest[2:]) if style == "de" and isinstance(sentence, Statement | Offer) else rest
    return any(
        _without_marks(left) == rest or (left[0] == _PHRASE and _without_marks(left) == inverted)
        for left in _take_out(_comparable(words, style), spellings)
    )


def _sentences(text: str) -> list[Words]:
    """The words of each sentence of a text, in lower case."""
    pieces = _SENTENCE_END.split(unicodedata.normalize("NFC", text).lower())
    return [words for words in (tuple(_WORD.findall(piece)) for piece in pieces) if words]


def _comparable(words: Words, style: str) -> Words:
    """The words without articles (of several in a row, and at the end, they stay), and each as what it counts as."""
    language = style.split("_")[0]
    articles, counts_as = _ARTICLES.get(language, _ENGLISH_ARTICLES), _COUNTS_AS.get(language, {})
    kept = [word for word, following in pairwise((*words, "")) if word not in articles or following in articles or not following]
    return tuple(counts_as.get(word, word) for word in kept)


def _adverbial_spellings(sentence: Sentence, style: str) -> list[list[Words]]:
    """For the place and the time, as far as named: its phrases in the style, the style's own first."""
    columns = _COLUMNS.get(style.split("_")[0], ("english",))
    return [
        [_comparable(_sentences(getattr(adverbial, column))[0], style) for column in columns]
        for adverbial in named_adverbials(sentence)
        if adverbial
    ]


def _take_out(words: Words, spellings: list[list[Words]]) -> Iterator[Words]:
    """Every way to take one phrase of each adverbial out of the words, leaving a mark for it; first phrases first."""
    if not spellings:
        yield words
        return
    for phrase in spellings[0]:
        for start in range(len(words) - len(phrase) + 1):
            if words[start : start + len(phrase)] == phrase:
                yield from _take_out((*words[:start], _PHRASE, *words[start + len(phrase) :]), spellings[1:])


def _without_marks(words: Words) -> Words:
    return tuple(word for word in words if word != _PHRASE)
