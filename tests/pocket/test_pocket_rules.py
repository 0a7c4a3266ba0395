"""Pocket's judge by rule: against the grammar on the test splits, and by value on sentences written by hand."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from compositional.pocket.examples import SOURCES, MeaningExample, draw_examples
from compositional.pocket.lexicon import ADJECTIVES, NAMES, NOUNS, PLACES, TIMES, VERBS
from compositional.pocket.meaning import Event, Offer, Question, Reaction, Sentence, Statement, StillThere
from compositional.pocket.rules import says
from compositional.pocket.sentences import STYLES, render, render_all

# ---- against the grammar


@pytest.fixture(scope="module")
def examples() -> dict[str, list[MeaningExample]]:
    return {source: list(draw_examples(source, "test")) for source in SOURCES}


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("source", SOURCES)
def test_a_rendering_says_its_meaning_in_its_own_style_only(source, style, examples):
    wrong = [
        (said_in, text)
        for example in examples[source]
        for said_in in STYLES
        for text in [render_all(example.meaning, said_in)]
        if says(text, example.meaning, style) != (said_in == style)
    ]
    assert wrong == []
    assert len(examples[source]) == 250


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("source", SOURCES)
def test_the_rendering_of_another_example_does_not_say_the_meaning(source, style, examples):
    meanings = [example.meaning for example in examples[source]]
    pairs = [(render_all(other, style), render_all(own, style), own) for own, other in zip(meanings, meanings[1:] + meanings[:1])]
    different = [(text, own) for text, own_text, own in pairs if text != own_text]
    assert [text for text, own in different if says(text, own, style)] == []
    assert len(different) > 240


def neighbour(keys: list, key: str | None) -> str | None:
    return keys[(keys.index(key) + 1) % len(keys)]


@pytest.mark.parametrize("style", STYLES)
def test_a_rendering_with_one_slot_changed_does_not_say_the_meaning(style, examples):
    refused = Counter()
    for example in examples["sentences"]:
        sentence = example.meaning[-1]
        event = sentence.event
        changes = {
            "agent": neighbour(list(NAMES), event.agent),
            "verb": neighbour(list(VERBS), event.verb),
            "noun": neighbour(list(NOUNS), event.noun),
            "adjective": neighbour([None, *ADJECTIVES], event.adjective),
            "place": neighbour(list(PLACES), event.place) if event.place else "in the castle",
            "time": neighbour(list(TIMES), event.time) if event.time else "in March",
            "past": not event.past,
        }
        for slot, value in changes.items():
            changed = render(replace(sentence, event=replace(event, **{slot: value})), style)
            if changed != render(sentence, style):
                assert not says(changed, (sentence,), style), (changed, sentence)
                refused[slot] += 1
    assert min(refused[slot] for slot in changes) > 100


# ---- by value

BUYING = Statement(Event("Anna", "buy", "bike", "red", "at the market", "on Monday", False))
BREAKING = Statement(Event("Tom", "break", "lamp", "green", "at school", "yesterday", True))
WRITING = Statement(Event("Zoë", "write", "letter", None, None, "last night", True))
TASTING = Statement(Event("José", "taste", "soup", None, None, "yesterday", True))
SHARING = Statement(Event("Ben", "share", "cake", None, "in the garden", None, True))
BOTH = (BUYING, BREAKING)
WHERE = (Reaction("bad"), Question(Event("Mia", "lose", "key", "round", None, "yesterday", True), "where"))
WHEN = (Reaction("surprise"), Question(Event("Leo", "rent", "camera", None, "at the hotel", None, False), "when"))
STILL = (Reaction("good"), StillThere(Event("Nora", "paint", "lamp", "blue", "at school", "last week", True)))
OFFER = (Reaction("luck"), Offer(Event("Max", "repair", "chair", "black", "at the office", "tomorrow", False)))
READING = (Offer(Event("Hugo", "read", "story", "strange", "at the hotel", "on Sunday", False)),)

Row = tuple[tuple[Sentence, ...], bool, str, str]  # meaning, whether the text says it, why, text

SPANISH: list[Row] = [
    ((BUYING,), True, "exact", "Anna va a comprar una bicicleta roja en el mercado el lunes."),
    ((BUYING,), True, "time in front", "El lunes, Anna va a comprar en el mercado una bicicleta roja."),
    ((BUYING,), True, "agreement, case, no stop", "anna va a comprar un bicicleta rojo en el mercado el lunes"),
    (
        BOTH,
        True,
        "other order of sentences",
        "Tom rompió ayer una lámpara verde en la escuela. Anna va a comprar una bicicleta roja en el mercado el lunes.",
    ),
    ((TASTING,), True, "decomposed accents", "Jose\u0301 probo\u0301 una sopa ayer."),
    (WHERE, True, "exact", "Siento mucho oír eso. ¿Dónde perdiste la llave redonda ayer?"),
    (WHERE, True, "time after the verb, a line each", "Siento mucho oír eso.\n¿Dónde perdiste ayer la llave redonda?"),
    (STILL, True, "no inverted question mark, wrong article", "¡Eso suena genial! Todavía tienes el lámpara azul?"),
    (OFFER, True, "place inside", "¡Se te dan bien estas cosas! Puedo ayudarte en la oficina a reparar la silla negra."),
    ((SHARING,), True, "comma behind the place", "En el jardín, Ben compartió un pastel."),
    (READING, True, "wrong endings", "Puedo ayudarte a leer el historia extraño en el hotel."),
    ((BUYING,), False, "time missing", "Anna va a comprar una bicicleta roja en el mercado."),
    ((BUYING,), False, "past instead of future", "Anna compró una bicicleta roja en el mercado el lunes."),
    ((BUYING,), False, "another day", "Anna va a comprar una bicicleta roja en el mercado el martes."),
    ((BUYING,), False, "two days", "Anna va a comprar una bicicleta roja en el mercado el lunes el martes."),
    ((BUYING,), False, "same day twice", "El lunes, Anna va a comprar una bicicleta roja en el mercado el lunes."),
    ((BUYING,), False, "adjective missing", "Anna va a comprar una bicicleta en el mercado el lunes."),
    ((BUYING,), False, "adjective added", "Anna va a comprar una bicicleta roja pesada en el mercado el lunes."),
    ((BUYING,), False, "inverted", "El lunes va Anna a comprar una bicicleta roja en el mercado."),
    ((BUYING,), False, "subject and object swapped", "Una bicicleta roja va a comprar Anna en el mercado el lunes."),
    (
        BOTH,
        False,
        "agents swapped",
        "Tom va a comprar una bicicleta roja en el mercado el lunes. Anna rompió una lámpara verde en la escuela ayer.",
    ),
    (
        BOTH,
        False,
        "one event twice",
        "Tom rompió una lámpara verde en la escuela ayer. Tom rompió una lámpara verde en la escuela ayer.",
    ),
    (BOTH, False, "one event only", "Tom rompió una lámpara verde en la escuela ayer."),
    (
        (BREAKING,),
        False,
        "repeated",
        "Tom rompió una lámpara verde en la escuela ayer. Tom rompió una lámpara verde en la escuela ayer.",
    ),
    ((BUYING,), False, "English copied", "Anna will buy a red bike at the market on Monday."),
    ((BUYING,), False, "French", "Anna va acheter un vélo rouge au marché lundi."),
    (WHERE, False, "accent missing", "Siento mucho oir eso. ¿Dónde perdiste la llave redonda ayer?"),
    (WHERE, False, "asks when", "Siento mucho oír eso. ¿Cuándo perdiste la llave redonda ayer?"),
    (WHERE, False, "names the place it asks for", "Siento mucho oír eso. ¿Dónde perdiste la llave redonda en el parque ayer?"),
    (WHERE, False, "no reaction", "¿Dónde perdiste la llave redonda ayer?"),
    (STILL, False, "another reaction", "¡No me lo esperaba! ¿Todavía tienes la lámpara azul?"),
    (STILL, False, "a word of the reaction missing", "¡Suena genial! ¿Todavía tienes la lámpara azul?"),
]

FRENCH: list[Row] = [
    (BOTH, True, "exact", "Anna va acheter un vélo rouge au marché lundi. Tom a cassé une lampe verte à l'école hier."),
    (
        BOTH,
        True,
        "phrases in front, agreement",
        "Lundi, Anna va acheter une vélo rouge au marché. Hier, à l’école, Tom a cassé un lampe vert.",
    ),
    ((WRITING,), True, "time in front", "Hier soir, Zoë a écrit une lettre."),
    (STILL, True, "no space before the question mark", "Ça a l'air génial! As-tu encore la lampe bleue?"),
    (WHEN, True, "narrow spaces", "Je ne m'y attendais pas\u202f! Quand vas-tu louer l'appareil à l'hôtel\u202f?"),
    (WHEN, True, "question first", "Quand vas-tu louer à l'hôtel le appareil ? Je ne m'y attendais pas !"),
    (READING, True, "elisions", "Je peux t'aider à l'hôtel à lire l'histoire étrange."),
    ((SHARING,), True, "capitals, article missing", "BEN A PARTAGÉ GÂTEAU DANS LE JARDIN!"),
    (WHERE, True, "hyphen missing", "Je suis désolé de l'apprendre. Où as tu perdu hier la clé rond ?"),
    ((WRITING,), False, "yesterday for last night", "Zoë a écrit une lettre hier."),
    ((TASTING,), False, "last night for yesterday", "José a goûté une soupe hier soir."),
    ((WRITING,), False, "phrase torn apart", "Hier Zoë a écrit une lettre soir."),
    ((WRITING,), False, "auxiliary missing", "Zoë écrit une lettre hier soir."),
    (WHEN, False, "past instead of future", "Je ne m'y attendais pas ! Quand as-tu loué l'appareil à l'hôtel ?"),
    (STILL, False, "pronoun of the reaction missing", "Ça a air génial ! As-tu encore la lampe bleue ?"),
    (STILL, False, "German follow-up", "Ça a l'air génial ! Hast du die blaue Lampe noch?"),
    (OFFER, False, "another noun", "Tu es doué pour ça ! Je peux t'aider à réparer la table noire au bureau."),
]

GERMAN: list[Row] = [
    ((BUYING,), True, "exact", "Anna wird am Montag auf dem Markt ein rotes Fahrrad kaufen."),
    ((BUYING,), True, "inverted behind the time", "Am Montag wird Anna auf dem Markt ein rotes Fahrrad kaufen."),
    ((BUYING,), True, "inverted behind the place", "Auf dem Markt wird Anna ein rotes Fahrrad am Montag kaufen."),
    ((BUYING,), True, "endings and articles", "Anna wird am Montag auf den Markt einen roten Fahrrad kaufen."),
    ((WRITING,), True, "time behind the object", "Zoë hat einen Brief gestern Abend geschrieben."),
    (WHERE, True, "exact", "Das tut mir sehr leid. Wo hast du gestern den runden Schlüssel verloren?"),
    (STILL, True, "lower case, one stop", "das klingt großartig! hast du die blaue lampe noch"),
    (
        OFFER,
        True,
        "no comma, place behind",
        "Das kannst du wirklich gut! Ich kann dir helfen den schwarzen Stuhl im Büro zu reparieren.",
    ),
    ((SHARING,), True, "quotation marks", "„Ben hat im Garten einen Kuchen geteilt.“"),
    (WHEN, True, "question first", "Wann wirst du die Kamera im Hotel mieten? Das hätte ich nicht erwartet!"),
    (READING, True, "exact", "Ich kann dir helfen, im Hotel die seltsame Geschichte zu lesen."),
    (OFFER[1:], True, "inverted behind the place", "Im Büro kann ich dir helfen, den schwarzen Stuhl zu reparieren."),
    (OFFER[1:], False, "inverted behind nothing", "Kann ich dir im Büro helfen, den schwarzen Stuhl zu reparieren?"),
    (WHERE[1:], False, "question inverted", "Gestern hast wo du den runden Schlüssel verloren?"),
    ((BUYING,), False, "inverted behind nothing", "Wird Anna am Montag auf dem Markt ein rotes Fahrrad kaufen?"),
    ((BUYING,), False, "object in front", "Ein rotes Fahrrad wird Anna am Montag auf dem Markt kaufen."),
    ((BUYING,), False, "verb at the wrong end", "Anna wird kaufen am Montag auf dem Markt ein rotes Fahrrad."),
    ((WRITING,), False, "yesterday for last night", "Gestern hat Zoë einen Brief geschrieben."),
    ((TASTING,), False, "last night for yesterday", "José hat gestern Abend eine Suppe probiert."),
    ((TASTING,), False, "name without its accent", "Jose hat gestern eine Suppe probiert."),
    (WHERE, False, "will instead of did", "Das tut mir sehr leid. Wo wirst du gestern den runden Schlüssel verlieren?"),
    (STILL, False, "chat marker", "Das klingt großartig! Hast du die blaue Lampe noch?<|eot_id|>"),
    (STILL, False, "marker of symbols", "Das klingt großartig! Hast du die blaue Lampe noch? <|>"),
]

PROFESSIONAL: list[Row] = [
    ((BUYING,), True, "exact", "Please note that Anna intends to purchase a red bicycle at the market on Monday."),
    (
        (BUYING,),
        True,
        "neutral noun, time in front",
        "Please note that on Monday, Anna intends to purchase a red bike at the market.",
    ),
    (WHEN, True, "exact", "That is an unexpected development. May I ask when you intend to lease the camera at the hotel?"),
    (
        OFFER,
        True,
        "articles, no stop",
        "Your competence is appreciated. I would be pleased to assist you in restoring a black seat at office",
    ),
    ((WRITING,), True, "time inside", "Please note that Zoë last night composed a letter."),
    (STILL, True, "neutral noun", "That is excellent news. May I ask whether you still possess the blue lamp?"),
    (WHERE, True, "time before the object", "Please accept my sympathy. May I ask where you misplaced yesterday the round key?"),
    ((BUYING,), False, "plain English", "Anna will buy a red bike at the market on Monday."),
    ((BUYING,), False, "neutral predicate", "Please note that Anna will buy a red bicycle at the market on Monday."),
    ((BUYING,), False, "no opener", "Anna intends to purchase a red bicycle at the market on Monday."),
    ((BUYING,), False, "casual place", "Please note that Anna intends to purchase a red bicycle down the market on Monday."),
    (WHEN, False, "neutral reaction", "I did not expect that! May I ask when you intend to lease the camera at the hotel?"),
    (STILL, False, "an answer instead", "Answer: yes"),
]

CASUAL: list[Row] = [
    ((BUYING,), True, "exact", "So Anna's gonna grab a red bike down the market Monday, you know."),
    ((BUYING,), True, "neutral phrases", "So on Monday Anna's gonna grab a red bike at the market, you know!"),
    ((SHARING,), True, "neutral phrase within the casual one", "So Ben split a cake in the garden, you know."),
    (WHERE, True, "comma missing", "Aw man, that sucks. Hey where'd you ditch the round key yesterday?"),
    (STILL, True, "comma missing before the tag", "Awesome, dude! You still got the blue lamp right?"),
    (
        (BUYING,),
        True,
        "one phrase neutral, typographic apostrophe",
        "So Anna’s gonna grab a red bike on Monday down the market, you know.",
    ),
    ((TASTING,), True, "time in front", "Yesterday so José tried out a soup, you know."),
    (WHEN, True, "question first", "Hey, when you gonna snag the camera at the hotel? Whoa, no way!"),
    (OFFER, True, "exact", "You're so good at this stuff! I can totally help ya fix up the black chair at work."),
    ((BUYING,), False, "no tag", "So Anna's gonna grab a red bike down the market Monday."),
    ((SHARING,), False, "to come", "So Ben's gonna split a cake out in the garden, you know."),
    ((SHARING,), False, "casual phrase torn apart", "So Ben out split a cake in the garden, you know."),
    (WHERE, False, "neutral question", "Aw man, that sucks. Where did you lose the round key yesterday?"),
    (OFFER, False, "neutral verb", "You're so good at this stuff! I can totally help ya repair the black chair at work."),
    (OFFER, False, "one word", "yes"),
]

WITTY: list[Row] = [
    ((BUYING,), True, "exact", "Breaking news: Anna will buy a red bike at the market on Monday, hide your wallets!"),
    ((BUYING,), True, "time in front", "Breaking news: on Monday, Anna will buy a red bike at the market - hide your wallets."),
    (WHEN, True, "exact", "My jaw just filed a complaint! My calendar is curious: when will you rent the camera at the hotel?"),
    ((SHARING,), True, "no colon or comma", "Breaking news Ben shared a cake in the garden saints have done less!"),
    (STILL, True, "exact", "Stop it, I am turning green! My spies want to know: do you still have the blue lamp?"),
    (
        OFFER[1:],
        True,
        "place in front",
        "My cape is ready: at the office I can help you repair the black chair, the toolbox is on vacation!",
    ),
    ((BUYING,), False, "no quip", "Breaking news: Anna will buy a red bike at the market on Monday!"),
    ((BUYING,), False, "another quip", "Breaking news: Anna will buy a red bike at the market on Monday, Sherlock would be proud!"),
    ((BUYING,), False, "no opener", "Anna will buy a red bike at the market on Monday, hide your wallets!"),
    (WHEN, False, "another opener", "My jaw just filed a complaint! My map is blank: when will you rent the camera at the hotel?"),
    (STILL, False, "formal noun", "Stop it, I am turning green! My spies want to know: do you still have the blue luminaire?"),
]

PARAPHRASE: list[Row] = [
    ((BUYING,), True, "exact", "On Monday, at the market, a red bike will be bought by Anna."),
    ((BUYING,), True, "phrases behind", "A red bike will be bought by Anna at the market on Monday."),
    (WHERE, True, "exact", "This makes me feel sad for you. At what place was the round key lost yesterday?"),
    (OFFER, True, "article error", "Such things are a strength of yours! You can count on me to repair black chair at the office."),
    ((SHARING,), True, "wrong article", "In the garden, the cake was shared by Ben."),
    (STILL, True, "exact", "What wonderful news! Is the blue lamp still in your hands?"),
    (WHEN, True, "place inside", "This comes as a surprise to me! At what time will at the hotel the camera be rented?"),
    ((BUYING,), False, "active", "On Monday, at the market, Anna will buy a red bike."),
    ((BUYING,), False, "past", "On Monday, at the market, a red bike was bought by Anna."),
    ((BUYING,), False, "agent missing", "On Monday, at the market, a red bike will be bought."),
    ((BUYING,), False, "agent and object swapped", "On Monday, at the market, Anna will be bought by a red bike."),
    ((BUYING,), False, "comment", "Here is the summary: On Monday, at the market, a red bike will be bought by Anna."),
    ((BUYING,), False, "comment behind", "On Monday, at the market, a red bike will be bought by Anna. I hope this helps!"),
    ((BUYING,), False, "articles in a row", "On Monday, at the market, a a a red bike will be bought by Anna."),
    ((BUYING,), False, "article at the end", "On Monday, at the market, a red bike will be bought by Anna the."),
    (
        WHERE,
        False,
        "one sentence of two",
        "At what place was the round key lost yesterday? At what place was the round key lost yesterday?",
    ),
]

TABLE = {
    "es": SPANISH,
    "fr": FRENCH,
    "de": GERMAN,
    "professional": PROFESSIONAL,
    "casual": CASUAL,
    "witty": WITTY,
    "paraphrase": PARAPHRASE,
}


@pytest.mark.parametrize(
    ("meaning", "style", "verdict", "text"),
    [
        pytest.param(meaning, style, verdict, text, id=f"{style}: {'yes' if verdict else 'no'}, {why}: {text[:24]}")
        for style, rows in TABLE.items()
        for meaning, verdict, why, text in rows
    ],
)
def test_a_text_by_value(meaning, style, verdict, text):
    assert says(text, meaning, style) is verdict


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("text", ["", " \n", "...", "yes", "No.", "Answer: yes", "<|eot_id|>", "<s></s>", "\x00", "🎉"])
def test_a_text_that_says_nothing_of_a_meaning_is_refused(text, style):
    assert [meaning for meaning in [(BUYING,), BOTH, WHERE, WHEN, STILL, OFFER] if says(text, meaning, style)] == []


EXACT = "So Anna's gonna grab a red bike down the market Monday, you know."


@pytest.mark.parametrize(
    "text",
    [
        EXACT * 150,
        EXACT[:-1] * 150,
        "So Anna's gonna grab a red bike " + "down the market Monday at the market on Monday " * 210 + ", you know.",
        "the " * 2500 + EXACT,
        "." * 10_000 + EXACT + " you know.",
        "e" + "\u0301" * 10_000,
        "Anna" * 2500,
    ],
    ids=lambda text: text[:12],
)
def test_ten_thousand_characters_are_refused(text):
    assert says(EXACT, (BUYING,), "casual")
    assert len(text) > 9000
    assert not says(text, (BUYING,), "casual")
