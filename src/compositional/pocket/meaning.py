"""What Pocket's sentences mean: events and what is said of them, as small frozen dataclasses."""

from __future__ import annotations

from dataclasses import dataclass, replace

from compositional.pocket.lexicon import PLACES, TIMES, Adverbial


@dataclass(frozen=True)
class Event:
    """Somebody does something to something, somewhere, some time; values are keys of the lexicon."""

    agent: str
    verb: str
    noun: str
    adjective: str | None
    place: str | None
    time: str | None
    past: bool


@dataclass(frozen=True)
class Statement:
    """Anna will buy a red bike at the market on Monday."""

    event: Event


@dataclass(frozen=True)
class Question:
    """Where will you buy the red bike on Monday? `asks` is "where" or "when"; that slot of the event is unused."""

    event: Event
    asks: str


@dataclass(frozen=True)
class StillThere:
    """Do you still have the red bike?"""

    event: Event


@dataclass(frozen=True)
class Offer:
    """I can help you buy the red bike at the market."""

    event: Event


@dataclass(frozen=True)
class Reaction:
    """That sounds great! `mood` is the mood of a verb in the lexicon."""

    mood: str


Sentence = Statement | Question | StillThere | Offer | Reaction


def named_adverbials(sentence: Sentence) -> tuple[Adverbial | None, Adverbial | None]:
    """Place and time that the sentence names: a question leaves out what it asks, some forms name neither or one."""
    event = sentence.event
    if isinstance(sentence, Question):
        event = replace(event, place=None) if sentence.asks == "where" else replace(event, time=None)
    if isinstance(sentence, StillThere):
        return None, None
    place = PLACES[event.place] if event.place else None
    time = TIMES[event.time] if event.time and not isinstance(sentence, Offer) else None
    return place, time


def join_words(*parts: str | None) -> str:
    """The parts that there are, separated by spaces."""
    return " ".join(part for part in parts if part)
