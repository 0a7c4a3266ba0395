"""Pocket's Spanish, French and German: articles, agreement and word order included."""

from __future__ import annotations

from compositional.pocket.lexicon import ADJECTIVES, NOUNS, VERBS
from compositional.pocket.meaning import Offer, Question, Sentence, Statement, StillThere, join_words, named_adverbials


def _spanish(sentence: Sentence) -> str:
    event, verb = sentence.event, VERBS[sentence.event.verb]
    noun = NOUNS[event.noun]
    feminine = noun.spanish_gender == "f"
    place, time = (adverbial and adverbial.spanish for adverbial in named_adverbials(sentence))
    adjective = None
    if event.adjective:
        entry = ADJECTIVES[event.adjective]
        adjective = entry.spanish_f if feminine else entry.spanish_m
    the_object = join_words("la" if feminine else "el", noun.spanish, adjective)
    match sentence:
        case Statement():
            predicate = verb.spanish_past_he if event.past else f"va a {verb.spanish}"
            an_object = join_words("una" if feminine else "un", noun.spanish, adjective)
            return join_words(event.agent, predicate, an_object, place, time) + "."
        case Question():
            asks = "¿Dónde" if sentence.asks == "where" else "¿Cuándo"
            predicate = verb.spanish_past_you if event.past else f"vas a {verb.spanish}"
            return join_words(asks, predicate, the_object, place, time) + "?"
        case StillThere():
            return f"¿Todavía tienes {the_object}?"
        case Offer():
            return join_words("Puedo ayudarte a", verb.spanish, the_object, place) + "."


def _french(sentence: Sentence) -> str:
    event, verb = sentence.event, VERBS[sentence.event.verb]
    noun = NOUNS[event.noun]
    feminine = noun.french_gender == "f"
    place, time = (adverbial and adverbial.french for adverbial in named_adverbials(sentence))
    adjective = None
    if event.adjective:
        entry = ADJECTIVES[event.adjective]
        adjective = entry.french_f if feminine else entry.french_m
    elided = noun.french[0] in "aeiouhéè"
    the_noun = f"l'{noun.french}" if elided else f"{'la' if feminine else 'le'} {noun.french}"
    the_object = join_words(the_noun, adjective)
    match sentence:
        case Statement():
            predicate = f"a {verb.french_participle}" if event.past else f"va {verb.french}"
            an_object = join_words("une" if feminine else "un", noun.french, adjective)
            return join_words(event.agent, predicate, an_object, place, time) + "."
        case Question():
            asks = "Où" if sentence.asks == "where" else "Quand"
            predicate = f"as-tu {verb.french_participle}" if event.past else f"vas-tu {verb.french}"
            return join_words(asks, predicate, the_object, place, time) + " ?"
        case StillThere():
            return f"As-tu encore {the_object} ?"
        case Offer():
            return join_words("Je peux t'aider à", verb.french, the_object, place) + "."


def _german(sentence: Sentence) -> str:
    event, verb = sentence.event, VERBS[sentence.event.verb]
    noun = NOUNS[event.noun]
    place, time = (adverbial and adverbial.german for adverbial in named_adverbials(sentence))
    stem = ADJECTIVES[event.adjective].german_stem if event.adjective else None
    gender = noun.german_gender
    the_adjective = stem and stem + {"m": "en", "f": "e", "n": "e"}[gender]
    the_object = join_words({"m": "den", "f": "die", "n": "das"}[gender], the_adjective, noun.german)
    match sentence:
        case Statement():
            an_adjective = stem and stem + {"m": "en", "f": "e", "n": "es"}[gender]
            an_object = join_words({"m": "einen", "f": "eine", "n": "ein"}[gender], an_adjective, noun.german)
            auxiliary, last = ("hat", verb.german_participle) if event.past else ("wird", verb.german)
            return join_words(event.agent, auxiliary, time, place, an_object, last) + "."
        case Question():
            asks = "Wo" if sentence.asks == "where" else "Wann"
            auxiliary, last = ("hast", verb.german_participle) if event.past else ("wirst", verb.german)
            return join_words(asks, auxiliary, "du", time, place, the_object, last) + "?"
        case StillThere():
            return f"Hast du {the_object} noch?"
        case Offer():
            return join_words("Ich kann dir helfen,", place, the_object, "zu", verb.german) + "."


TRANSLATED_SPEAKERS = {"es": _spanish, "fr": _french, "de": _german}
