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

The grade is the share of a meaning that a text says. It compares a sentence of the text with a sentence of the meaning word by
word, after the liberties above, and takes the smaller of two shares:

- Right words (those in the reference's order, and whole phrases of place and time), of the words of the longer sentence.
- The style's own words that are right, of all such words in the reference. They are the words that the whole meaning, said in
  neutral English, does not have. In neutral English itself, every word counts.

Each sentence of the meaning is compared with another sentence of the text, so that the sum of their shares is highest. The grade
is this sum, divided by the number of sentences of the meaning or of the text, whichever is larger. Therefore:

- It is 1 exactly where the text says the meaning.
- It is 0 for a text that has none of the style's own words, such as the meaning left in neutral English.
- Whatever is added to a right text lowers it, and a text with all possible sentences has a low grade.
- A right word in place of a wrong one never lowers it. Nor does a missing word that is added to a sentence compared with its own,
  unless it tears a place or time apart.
- Words that many sentences of a style have (va a, Please note that) count as well. Another sentence in the style is not at 0.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice, pairwise

from compositional.pocket.lexicon import ADJECTIVES, NOUNS
from compositional.pocket.meaning import Offer, Reaction, Sentence, Statement, named_adverbials
from compositional.pocket.sentences import render, render_all

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
        said = next((sentence for sentence in unsaid if _says_one(words, _form(sentence, style, meaning))), None)
        if said is None:
            return False
        unsaid.remove(said)
    return True


def grade(text: str, meaning: tuple[Sentence, ...], style: str) -> float:
    """The share of a meaning that a text says in a style of `render`, from 0 to 1, by the rule at the top of this file."""
    from scipy.optimize import linear_sum_assignment

    sentences = _sentences(text)
    if not sentences:
        return 0.0
    forms = [_form(sentence, style, meaning) for sentence in meaning]
    shares = [[_share(words, form) for form in forms] for words in sentences]
    best = linear_sum_assignment(shares, maximize=True)
    return sum(shares[row][column] for row, column in zip(*best, strict=True)) / max(len(sentences), len(meaning))


@dataclass(frozen=True)
class _Form:
    """How a sentence of a meaning is said in a style.

    `reference` has the words of the grammar's rendering. `rest` has those to compare, without place and time; `inverted` has them
    as they may stand behind a place or a time. `spellings` has the ways to say the place and the time, the style's own first.
    `own` has the words that neutral English does not have; `phrases_are_own` says whether that holds for place and time.
    """

    style: str
    is_fixed: bool
    reference: Words
    rest: Words
    inverted: Words
    spellings: tuple[tuple[Words, ...], ...]
    own: frozenset[str]
    phrases_are_own: bool

    def comparable(self, words: Words) -> Words:
        """The words of a sentence as they are compared with this one."""
        return words if self.is_fixed else _comparable(words, self.style)

    @property
    def too_long(self) -> int:
        """The number of words from which a sentence cannot say it: liberties never double a sentence."""
        return 2 * len(self.reference) + 1


@lru_cache(maxsize=4096)
def _form(sentence: Sentence, style: str, meaning: tuple[Sentence, ...]) -> _Form:
    """The form of a sentence that is a part of a meaning."""
    (reference,) = _sentences(render(sentence, style))
    is_fixed = isinstance(sentence, Reaction)
    spellings = () if is_fixed else _adverbial_spellings(sentence, style)
    rest = reference if is_fixed else _without_marks(next(_take_out(_comparable(reference, style), spellings)))
    inverts = style == "de" and isinstance(sentence, Statement | Offer)
    neutral = {word for words in _sentences(render_all(meaning, "en")) for word in words} if style != "en" else set()
    return _Form(
        style,
        is_fixed,
        reference,
        rest,
        inverted=(rest[1], rest[0], *rest[2:]) if inverts else rest,
        spellings=spellings,
        own=frozenset(rest) - neutral,
        phrases_are_own=style == "en" or "english" not in _columns(style),
    )


def _says_one(words: Words, form: _Form) -> bool:
    if len(words) >= form.too_long:  # taking phrases out of a very long sentence would be slow
        return False
    return any(
        _without_marks(left) == form.rest or (left[:1] == (_PHRASE,) and _without_marks(left) == form.inverted)
        for left in _take_out(form.comparable(words), form.spellings)
    )


def _share(words: Words, form: _Form) -> float:
    """The smaller of both shares that the grade is made of, for a sentence of a text and one of the meaning."""
    ways = _take_out(form.comparable(words), form.spellings, may_miss=True)
    if len(words) >= form.too_long:
        ways = islice(ways, 1)
    return max(
        _share_of_way(left, wanted, form)
        for left in ways
        for wanted in ((form.rest, form.inverted) if left[:1] == (_PHRASE,) else (form.rest,))
    )


def _share_of_way(left: Words, wanted: Words, form: _Form) -> float:
    phrases, all_phrases = left.count(_PHRASE), sum(len(spellings[0]) for spellings in form.spellings)
    rest, own = _without_marks(left), tuple(word for word in wanted if word in form.own)
    right = (_in_common(wanted, rest) + phrases) / max(len(wanted) + all_phrases, len(left))
    own_phrases = form.phrases_are_own * phrases
    all_own = len(own) + form.phrases_are_own * all_phrases
    return min(right, (_in_common(own, rest) + own_phrases) / all_own) if all_own else right


def _in_common(one: Words, other: Words) -> int:
    """The length of the longest common subsequence of words."""
    lengths = [0] * (len(other) + 1)
    for word in one:
        diagonal = 0
        for place, another in enumerate(other, start=1):
            above = lengths[place]
            lengths[place] = diagonal + 1 if word == another else max(above, lengths[place - 1])
            diagonal = above
    return lengths[-1]


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


def _columns(style: str) -> tuple[str, ...]:
    return _COLUMNS.get(style.split("_")[0], ("english",))


def _adverbial_spellings(sentence: Sentence, style: str) -> tuple[tuple[Words, ...], ...]:
    """For the place and the time, as far as named: its phrases in the style, the style's own first."""
    return tuple(
        tuple(_comparable(_sentences(getattr(adverbial, column))[0], style) for column in _columns(style))
        for adverbial in named_adverbials(sentence)
        if adverbial
    )


def _take_out(words: Words, spellings: tuple[tuple[Words, ...], ...], may_miss: bool = False) -> Iterator[Words]:
    """Every way to take one phrase of each adverbial out of the words; first phrases first.

    In place of a phrase, there is a mark for each word of the style's own spelling. With `may_miss`, each phrase may also be left
    where it is, or not be there.
    """
    if not spellings:
        yield words
        return
    own, *_ = spellings[0]
    places = [
        (start, start + len(phrase))
        for phrase in spellings[0]
        for start in range(len(words) - len(phrase) + 1)
        if words[start : start + len(phrase)] == phrase
    ]
    for start, end in places:
        yield from _take_out((*words[:start], *[_PHRASE] * len(own), *words[end:]), spellings[1:], may_miss)
    if may_miss:
        yield from _take_out(words, spellings[1:], may_miss)


def _without_marks(words: Words) -> Words:
    return tuple(word for word in words if word != _PHRASE)
