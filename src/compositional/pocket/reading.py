"""Reading Pocket's neutral English: from a text back to what it means.

What a sentence leaves unsaid (who is asked, when an offer is for, what was done to the thing that may still be there) gets
one fixed value each. No style says those slots either, so in every style the meaning is said as the original one is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache

from compositional.core.errors import UserError
from compositional.pocket.lexicon import ADJECTIVES, NAMES, NOUNS, PLACES, TIMES, VERBS
from compositional.pocket.meaning import Event, Offer, Question, Reaction, Sentence, Statement, StillThere
from compositional.pocket.sentences import render, render_all

_SENTENCE_GAP = re.compile(r"(?<=[.?!]) ")
_UNSAID_AGENT, _UNSAID_VERB = NAMES[0], next(iter(VERBS))
_SHOWN_CHARACTERS = 60


def read_english(text: str) -> tuple[Sentence, ...]:
    """The inverse of `render_all(meaning, "en")`: the meaning of a text, which can be said in every style.

    A text that the grammar wouldn't say to the letter is a UserError. Whether words go together (cook a bike) isn't asked.
    """
    sentences = [_read_sentence(part) for part in _SENTENCE_GAP.split(text)]
    meaning = tuple(sentence for sentence in sentences if sentence)
    if len(meaning) < len(sentences) or render_all(meaning, "en") != text:
        shown = text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "…"
        raise UserError(f"Pocket's grammar can't read {shown!r}")
    return meaning


def _read_sentence(text: str) -> Sentence | None:
    """What a sentence means, or None; a sentence with small faults, such as a wrong article, may still be read."""
    if reaction := _reactions().get(text):
        return reaction
    for form, pattern in _patterns().items():
        if match := pattern.fullmatch(text):
            slots = match.groupdict()
            event = _event(slots)
            return Question(event, slots["asks"].lower()) if form is Question else form(event)
    return None


def _event(slots: dict[str, str | None]) -> Event:
    past = slots.get("past") or ""
    return Event(
        agent=slots.get("agent") or _UNSAID_AGENT,
        verb=slots.get("verb") or _verbs_by_past().get(past) or _UNSAID_VERB,
        noun=slots["noun"],
        adjective=slots["adjective"],
        place=slots.get("place"),
        time=slots.get("time"),
        past=bool(past),
    )


@cache
def _reactions() -> dict[str, Reaction]:
    reactions = [Reaction(mood) for mood in {verb.mood for verb in VERBS.values()}]
    return {render(reaction, "en"): reaction for reaction in reactions}


@cache
def _verbs_by_past() -> dict[str, str]:
    return {verb.past: name for name, verb in VERBS.items()}


@cache
def _patterns() -> dict[type[Statement | Question | StillThere | Offer], re.Pattern[str]]:
    """What a sentence of each form looks like; its groups are slots of the event, and `asks`."""
    verb, place, time = _one_of("verb", VERBS), f"(?: {_one_of('place', PLACES)})?", f"(?: {_one_of('time', TIMES)})?"
    thing = f"(?:{_one_of('adjective', ADJECTIVES)} )?{_one_of('noun', NOUNS)}"
    predicate = f"(?:{_one_of('past', _verbs_by_past())}|will {verb})"
    patterns = {
        # Behind the object comes a space: a statement names a place, a time, or both, else it has no paraphrase.
        Statement: rf"{_one_of('agent', NAMES)} {predicate} an? {thing}(?= ){place}{time}\.",
        Question: rf"(?P<asks>Where|When) (?:(?P<past>did)|will) you {verb} the {thing}{place}{time}\?",
        StillThere: rf"Do you still have the {thing}\?",
        Offer: rf"I can help you {verb} the {thing}{place}\.",
    }
    return {form: re.compile(pattern) for form, pattern in patterns.items()}


def _one_of(slot: str, entries: Iterable[str]) -> str:
    """A group of one whole entry of the lexicon, the longest that fits."""
    return f"(?P<{slot}>{'|'.join(map(re.escape, sorted(entries, key=len, reverse=True)))})"
