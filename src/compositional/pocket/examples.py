"""Pocket's examples: what goes in, and the meaning of what should come out.

An event belongs to one split by its slots (verb, noun, adjective, place, time): no combination of slots of a test or
validation example occurs in training, in any of Pocket's sets, and none is an event of the base model's corpus.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from random import Random

from compositional.pocket.dialogues import SMALL_TALK, write_dialogue
from compositional.pocket.english import english_first_person
from compositional.pocket.lexicon import ADJECTIVES, NAMES, NOUNS, PLACES, TIMES, VERBS
from compositional.pocket.meaning import Event, Offer, Question, Reaction, Sentence, Statement, StillThere
from compositional.pocket.sentences import render_all

SPLIT_SIZES = {"train": 8000, "validation": 250, "test": 250}


@dataclass(frozen=True)
class MeaningExample:
    """An English input, and what the output must say; `render_all(meaning, style)` says it."""

    input: str
    meaning: tuple[Sentence, ...]


def split_of(event: Event) -> str:
    """The split that the slots of an event belong to: 80 % train, 10 % validation, 10 % test."""
    slots = "|".join(str(slot) for slot in (event.verb, event.noun, event.adjective, event.place, event.time))
    bucket = hashlib.sha256(slots.encode()).digest()[0] % 10
    return {8: "validation", 9: "test"}.get(bucket, "train")


def draw_event(random: Random, split: str) -> Event:
    """A random event of a split, with a place, a time, or both."""
    while True:
        verb = random.choice(list(VERBS))
        noun = random.choice([name for name, noun in NOUNS.items() if noun.noun_class in VERBS[verb].takes])
        past = random.random() < 0.5
        times = [time for time, entry in TIMES.items() if entry.tense in ("any", "past" if past else "future")]
        adjective = random.choice(list(ADJECTIVES)) if random.random() < 0.7 else None
        place, time = random.choice(list(PLACES)), random.choice(times)
        missing = random.random()
        place = None if missing < 0.15 else place
        time = None if 0.15 <= missing < 0.3 else time
        event = Event(random.choice(NAMES), verb, noun, adjective, place, time, past)
        if split_of(event) == split:
            return event


def summary_example(random: Random, split: str) -> MeaningExample:
    """A dialogue and its events as statements, in the order in which they come up."""
    events = [draw_event(random, split)]
    if random.random() < 0.5:
        second = draw_event(random, split)
        events.append(second if random.random() < 0.7 else replace(second, agent=events[0].agent))
    dialogue = write_dialogue(events, random)
    # A wrong or partial first telling must not let the combination of a held-out event into the training text, either.
    while split == "train" and any(split_of(event) != "train" for event in dialogue.first_tellings):
        dialogue = write_dialogue(events, random)
    return MeaningExample(dialogue.text, tuple(Statement(event) for event in events))


def reply_example(random: Random, split: str) -> MeaningExample:
    """A turn that tells an event, and the reply to it.

    The reply reacts as the verb's mood asks, then asks for what the turn leaves open: the place, else the
    time; when nothing is open, it offers help with what is to come and asks what became of what is past.
    """
    event = draw_event(random, split)
    asks_for_nothing = bool(event.place and event.time)
    if not asks_for_nothing:
        follow_up: Sentence = Question(event, "where" if not event.place else "when")
    else:
        follow_up = StillThere(event) if event.past else Offer(event)
    sentences = [english_first_person(event) + "."]
    if random.random() < 0.5:
        sentences.insert(random.randrange(2), random.choice(SMALL_TALK)[0])
    return MeaningExample(" ".join(sentences), (Reaction(VERBS[event.verb].mood), follow_up))


def sentence_example(random: Random, split: str) -> MeaningExample:
    """One or two English sentences of any form, to be said in another language or tone."""
    meaning = draw_meaning(random, split)
    return MeaningExample(render_all(meaning, "en"), meaning)


def draw_meaning(random: Random, split: str) -> tuple[Sentence, ...]:
    """The forms that summaries and replies take: a statement or two, or a reaction and a follow-up."""
    first = draw_event(random, split)
    form = random.random()
    if form < 0.3:
        return (Statement(first),)
    if form < 0.55:
        return Statement(first), Statement(draw_event(random, split))
    follow_up = random.choice((Offer, StillThere, Question, Question))
    reaction = Reaction(random.choice([verb.mood for verb in VERBS.values()]))
    if follow_up is Question:
        return reaction, Question(first, random.choice(("where", "when")))
    return reaction, follow_up(first)


SOURCES: dict[str, Callable[[Random, str], MeaningExample]] = {
    "dialogs": summary_example,
    "replies": reply_example,
    "sentences": sentence_example,
}


def draw_examples(source: str, split: str) -> Iterator[MeaningExample]:
    """The examples of a source and split: always the same ones, without repeated inputs."""
    random = Random(f"pocket/{source}/{split}")
    seen: set[str] = set()
    while len(seen) < SPLIT_SIZES[split]:
        example = SOURCES[source](random, split)
        if example.input not in seen:
            seen.add(example.input)
            yield example
