"""Pocket's English: neutral, and in each tone."""

from __future__ import annotations

from compositional.pocket.lexicon import NOUNS, VERBS
from compositional.pocket.meaning import Event, Offer, Question, Sentence, Statement, StillThere, join_words, named_adverbials


def english_object(event: Event, definite: bool, formal: bool = False) -> str:
    """An object with its adjective and article."""
    noun = NOUNS[event.noun].formal if formal else event.noun
    words = [event.adjective, noun] if event.adjective else [noun]
    article = "the" if definite else ("an" if words[0][0] in "aeiou" else "a")
    return " ".join([article, *words])


def english_first_person(event: Event) -> str:
    """The event as its agent tells it, without the final full stop: I will buy a red bike at the market."""
    verb = VERBS[event.verb]
    predicate = verb.past if event.past else f"will {verb.english}"
    return join_words("I", predicate, english_object(event, definite=False), event.place, event.time)


def _capitalised(text: str) -> str:
    return text[0].upper() + text[1:]


def _neutral(sentence: Sentence) -> str:
    event, verb = sentence.event, VERBS[sentence.event.verb]
    place, time = (adverbial and adverbial.english for adverbial in named_adverbials(sentence))
    the_object = english_object(event, definite=True)
    match sentence:
        case Statement():
            predicate = verb.past if event.past else f"will {verb.english}"
            return join_words(event.agent, predicate, english_object(event, definite=False), place, time) + "."
        case Question():
            auxiliary = "did you" if event.past else "will you"
            return join_words(sentence.asks.capitalize(), auxiliary, verb.english, the_object, place, time) + "?"
        case StillThere():
            return f"Do you still have {the_object}?"
        case Offer():
            return join_words("I can help you", verb.english, the_object, place) + "."


def _professional(sentence: Sentence) -> str:
    event, verb = sentence.event, VERBS[sentence.event.verb]
    place, time = (adverbial and adverbial.english for adverbial in named_adverbials(sentence))
    the_object = english_object(event, definite=True, formal=True)
    predicate = verb.formal_past if event.past else f"intends to {verb.formal}"
    match sentence:
        case Statement():
            an_object = english_object(event, definite=False, formal=True)
            return join_words("Please note that", event.agent, predicate, an_object, place, time) + "."
        case Question():
            predicate = predicate.replace("intends", "intend")
            return join_words("May I ask", sentence.asks, "you", predicate, the_object, place, time) + "?"
        case StillThere():
            return f"May I ask whether you still possess {the_object}?"
        case Offer():
            return join_words("I would be pleased to assist you in", verb.formal_gerund, the_object, place) + "."


def _casual(sentence: Sentence) -> str:
    event, verb = sentence.event, VERBS[sentence.event.verb]
    place, time = (adverbial and adverbial.casual for adverbial in named_adverbials(sentence))
    the_object = english_object(event, definite=True)
    match sentence:
        case Statement():
            subject = f"So {event.agent}" if event.past else f"So {event.agent}'s gonna"
            predicate = verb.casual_past if event.past else verb.casual
            return join_words(subject, predicate, english_object(event, definite=False), place, time) + ", you know."
        case Question():
            asks = sentence.asks.capitalize()
            auxiliary = f"{asks}'d you" if event.past else f"{asks} you gonna"
            return join_words("Hey,", auxiliary.lower(), verb.casual, the_object, place, time) + "?"
        case StillThere():
            return f"You still got {the_object}, right?"
        case Offer():
            return join_words("I can totally help ya", verb.casual, the_object, place) + "."


def _witty(sentence: Sentence) -> str:
    event, quip = sentence.event, VERBS[sentence.event.verb].quip
    plain = _neutral(sentence)
    match sentence:
        case Statement():
            return f"Breaking news: {plain[:-1]}, {quip}!"
        case Question():
            opener = "My map is blank" if sentence.asks == "where" else "My calendar is curious"
            return f"{opener}: {plain[0].lower()}{plain[1:]}"
        case StillThere():
            return f"My spies want to know: do you still have {english_object(event, definite=True)}?"
        case Offer():
            return f"My cape is ready: {plain[:-1]}, {quip}!"


def _paraphrase(sentence: Sentence) -> str:
    event, verb = sentence.event, VERBS[sentence.event.verb]
    place, time = (adverbial and adverbial.english for adverbial in named_adverbials(sentence))
    the_object = english_object(event, definite=True)
    match sentence:
        case Statement():
            passive = f"{'was' if event.past else 'will be'} {verb.participle}"
            start = f"{_capitalised(time)}, {place}," if time and place else f"{_capitalised(time or place)},"
            return f"{start} {english_object(event, definite=False)} {passive} by {event.agent}."
        case Question():
            start = "At what place" if sentence.asks == "where" else "At what time"
            passive = f"was {the_object} {verb.participle}" if event.past else f"will {the_object} be {verb.participle}"
            return join_words(start, passive, place, time) + "?"
        case StillThere():
            return f"Is {the_object} still in your hands?"
        case Offer():
            return join_words("You can count on me to", verb.english, the_object, place) + "."


ENGLISH_SPEAKERS = {
    "en": _neutral,
    "professional": _professional,
    "casual": _casual,
    "witty": _witty,
    "paraphrase": _paraphrase,
}
