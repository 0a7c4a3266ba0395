"""Saying what Pocket means: `render(sentence, style)`.

A style is "en", a language of `lexicon.LANGUAGES`, a tone of `lexicon.TONES` in English, or a language in a tone (`es_casual`),
in which there are statements only.
"""

from __future__ import annotations

from compositional.pocket.english import ENGLISH_SPEAKERS
from compositional.pocket.lexicon import LANGUAGES, TONES
from compositional.pocket.meaning import Reaction, Sentence, Statement
from compositional.pocket.translations import TRANSLATED_SPEAKERS

STYLES = ("en", *LANGUAGES, *TONES)
# What stands around a statement in a language and a tone.
TONED_LANGUAGES = {"es_casual": ("Pues", ", ¿sabes?"), "fr_casual": ("Alors", ", tu sais."), "de_casual": ("Also", ", weißt du.")}
_SPEAKERS = ENGLISH_SPEAKERS | TRANSLATED_SPEAKERS

_REACTIONS = {
    "good": {
        "en": "That sounds great!",
        "es": "¡Eso suena genial!",
        "fr": "Ça a l'air génial !",
        "de": "Das klingt großartig!",
        "professional": "That is excellent news.",
        "casual": "Awesome, dude!",
        "witty": "Stop it, I am turning green!",
        "paraphrase": "What wonderful news!",
    },
    "bad": {
        "en": "I am sorry to hear that.",
        "es": "Siento mucho oír eso.",
        "fr": "Je suis désolé de l'apprendre.",
        "de": "Das tut mir sehr leid.",
        "professional": "Please accept my sympathy.",
        "casual": "Aw man, that sucks.",
        "witty": "Somebody cue the sad violin!",
        "paraphrase": "This makes me feel sad for you.",
    },
    "surprise": {
        "en": "I did not expect that!",
        "es": "¡No me lo esperaba!",
        "fr": "Je ne m'y attendais pas !",
        "de": "Das hätte ich nicht erwartet!",
        "professional": "That is an unexpected development.",
        "casual": "Whoa, no way!",
        "witty": "My jaw just filed a complaint!",
        "paraphrase": "This comes as a surprise to me!",
    },
    "luck": {
        "en": "You are good at such things!",
        "es": "¡Se te dan bien estas cosas!",
        "fr": "Tu es doué pour ça !",
        "de": "Das kannst du wirklich gut!",
        "professional": "Your competence is appreciated.",
        "casual": "You're so good at this stuff!",
        "witty": "Leave some talent for the rest of us!",
        "paraphrase": "Such things are a strength of yours!",
    },
}


def render(sentence: Sentence, style: str) -> str:
    """Say a sentence in a style of `STYLES`, or a statement in one of `TONED_LANGUAGES`."""
    if isinstance(sentence, Statement) and style in TONED_LANGUAGES:
        opening, end = TONED_LANGUAGES[style]
        return f"{opening} {render(sentence, style.split('_')[0])[:-1]}{end}"
    if isinstance(sentence, Reaction):
        return _REACTIONS[sentence.mood][style]
    return _SPEAKERS[style](sentence)


def render_all(sentences: tuple[Sentence, ...] | list[Sentence], style: str) -> str:
    """Say several sentences in a row, separated by a space."""
    return " ".join(render(sentence, style) for sentence in sentences)
