"""Pocket's dialogues: one or two events told over several turns, amid small talk that belongs to no event."""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random

from compositional.pocket.english import english_first_person, english_object
from compositional.pocket.lexicon import NAMES, NOUNS, PLACES, TIMES, VERBS
from compositional.pocket.meaning import Event

GREETINGS = (
    ("Hi {other}, how are you?", "Fine, thanks, {speaker}."),
    ("Good morning, {other}!", "Good morning! Did you sleep well?"),
    ("Hello {other}! Long time no see.", "Hello {speaker}, what a nice surprise."),
    ("Hey {other}, do you have a minute?", "For you, always."),
    ("Good evening, {other}.", "Oh, {speaker}, come in!"),
    ("{other}, is that you?", "Yes, {speaker}, it is me."),
)
SMALL_TALK = (
    ("The weather is lovely today.", "Yes, the sun is shining at last."),
    ("I am so tired this week.", "You should rest a little."),
    ("My sister called again.", "She calls every day, I know."),
    ("The train was late, as always.", "Mine too."),
    ("I like your shoes.", "Thank you, they are quite old."),
    ("The neighbors were so loud.", "They had a party, I think."),
    ("It will rain soon.", "Then we should stay inside."),
    ("I wanted to go to the park, but it was closed.", "What a pity."),
    ("My brother never answers the phone.", "Mine is just the same."),
    ("That red car is in the way again.", "It is always there."),
    ("Did you hear the music?", "No, I was asleep."),
    ("I am hungry.", "There is soup on the table."),
)
GOODBYES = (
    ("I have to go now.", "See you soon!"),
    ("Thank you for listening.", "You are welcome."),
    ("Let us talk later.", "With pleasure. Bye!"),
    ("Take care!", "You too."),
)
ACKNOWLEDGEMENTS = ("I see.", "Really?", "Oh, interesting.", "Is that so?", "Tell me more.", "Okay.")


@dataclass(frozen=True)
class Dialogue:
    """A line per turn (`Name: text`), and the events as the first telling has them: with a slot left out, or a wrong one."""

    text: str
    first_tellings: tuple[Event, ...]


Telling = tuple[list[tuple[str, str]], Event]


def write_dialogue(events: list[Event], random: Random, small_talk: float = 0.65) -> Dialogue:
    """A two-person dialogue in which the events come up in their order.

    The agent of each event tells it. With one event the listener is made up from the other names. `small_talk` scales how often
    something is said that belongs to no event.
    """
    agents = list(dict.fromkeys(event.agent for event in events))
    speakers = agents if len(agents) == 2 else [agents[0], _listener(agents[0], random)]
    turns: list[tuple[str, str]] = []
    first_tellings = []
    first, second = random.sample(speakers, 2)
    if random.random() < 0.7 * small_talk:
        turns += _exchange(random.choice(GREETINGS), first, second)
    for event in events:
        if random.random() < 0.5 * small_talk:
            turns += _exchange(random.choice(SMALL_TALK), *random.sample(speakers, 2))
        listener = speakers[1] if event.agent == speakers[0] else speakers[0]
        told, first_telling = random.choice(_TELLINGS)(event, listener, random)
        turns += told
        first_tellings.append(first_telling)
    if random.random() < 0.3 * small_talk:
        turns += _exchange(random.choice(SMALL_TALK), *random.sample(speakers, 2))
    if random.random() < 0.6 * small_talk:
        turns += _exchange(random.choice(GOODBYES), *random.sample(speakers, 2))
    return Dialogue("\n".join(f"{speaker}: {text}" for speaker, text in turns), tuple(first_tellings))


def _listener(agent: str, random: Random) -> str:
    return random.choice([name for name in NAMES if name != agent])


def _exchange(pair: tuple[str, str], speaker: str, other: str) -> list[tuple[str, str]]:
    return [(speaker, pair[0].format(speaker=speaker, other=other)), (other, pair[1].format(speaker=speaker, other=other))]


def _told_at_once(event: Event, listener: str, random: Random) -> Telling:
    return [(event.agent, english_first_person(event) + "."), (listener, random.choice(ACKNOWLEDGEMENTS))], event


def _told_piece_by_piece(event: Event, listener: str, random: Random) -> Telling:
    bare = replace(event, place=None, time=None)
    turns = [(event.agent, english_first_person(bare) + ".")]
    questions = [("Where?", event.place), ("When?", event.time)]
    random.shuffle(questions)
    for question, answer in questions:
        if answer:
            turns += [(listener, question), (event.agent, answer[0].upper() + answer[1:] + ".")]
    return turns, bare


def _told_on_request(event: Event, listener: str, random: Random) -> Telling:
    known = event.time or event.place
    question = f"What did you do {known}?" if event.past else f"What will you do {known}?"
    rest = replace(event, time=None) if event.time else replace(event, place=None)
    told = (event.agent, english_first_person(rest) + ".")
    return [(listener, question), told, (listener, random.choice(ACKNOWLEDGEMENTS))], rest


def _told_with_a_correction(event: Event, listener: str, random: Random) -> Telling:
    """The first version has a wrong place or time; what is said last holds."""
    if event.time:
        tense = "past" if event.past else "future"
        others = [time for time, entry in TIMES.items() if time != event.time and entry.tense in ("any", tense)]
        wrong, right = replace(event, time=random.choice(others)), event.time
    else:
        wrong, right = replace(event, place=random.choice([place for place in PLACES if place != event.place])), event.place
    told = (event.agent, english_first_person(wrong) + ".")
    return [told, (listener, random.choice(ACKNOWLEDGEMENTS)), (event.agent, f"No, wait, {right}.")], wrong


def _guessed_by_the_listener(event: Event, listener: str, random: Random) -> Telling:
    """The listener guesses another object; the agent names the real one."""
    same_class = NOUNS[event.noun].noun_class
    others = [name for name, noun in NOUNS.items() if noun.noun_class == same_class and name != event.noun]
    guess = english_object(replace(event, noun=random.choice(others), adjective=None), definite=False)
    question = " ".join(["Did you" if event.past else "Will you", VERBS[event.verb].english, guess]) + "?"
    answer = " ".join(part for part in (english_object(event, definite=False), event.place, event.time) if part)
    return [(listener, question), (event.agent, f"No, {answer}.")], event


_TELLINGS = (_told_at_once, _told_piece_by_piece, _told_on_request, _told_with_a_correction, _guessed_by_the_listener)
