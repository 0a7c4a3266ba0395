"""The grade of Pocket's judge: by value, against the verdict on the test splits, and what may and may not lower it."""

from __future__ import annotations

from random import Random

import pytest

from compositional.pocket.examples import SOURCES, MeaningExample, draw_examples
from compositional.pocket.meaning import Event, Offer, Question, Reaction, Sentence, Statement, StillThere
from compositional.pocket.rules import grade, says
from compositional.pocket.sentences import STYLES, render_all

STYLED = [style for style in STYLES if style != "en"]


@pytest.fixture(scope="module")
def examples() -> dict[str, list[MeaningExample]]:
    return {source: list(draw_examples(source, "test")) for source in SOURCES}


# ---- by value

BUYING = Statement(Event("Anna", "buy", "bike", "red", "at the market", "on Monday", False))
BREAKING = Statement(Event("Tom", "break", "lamp", "green", "at school", "yesterday", True))
BOTH = (BUYING, BREAKING)
STILL = (Reaction("good"), StillThere(Event("Nora", "paint", "lamp", "blue", "at school", "last week", True)))
WHERE = (Question(Event("Mia", "lose", "key", "round", None, "yesterday", True), "where"),)
OFFER = (Offer(Event("Max", "repair", "chair", "black", "at the office", "tomorrow", False)),)

Row = tuple[tuple[Sentence, ...], float, str, str]  # meaning, grade, why, text

# Words without articles: Anna va a comprar bicicleta roja, en mercado, lunes: 9. The style's own: all but Anna and a: 7.
SPANISH: list[Row] = [
    ((BUYING,), 1, "exact", "Anna va a comprar una bicicleta roja en el mercado el lunes."),
    ((BUYING,), 1, "time in front, agreement", "El lunes anna va a comprar un bicicleta rojo en el mercado"),
    ((BUYING,), 8 / 9, "another agent", "Tom va a comprar una bicicleta roja en el mercado el lunes."),
    ((BUYING,), 6 / 7, "no time", "Anna va a comprar una bicicleta roja en el mercado."),
    ((BUYING,), 6 / 7, "another day", "Anna va a comprar una bicicleta roja en el mercado el martes."),
    ((BUYING,), 5 / 7, "another place", "Anna va a comprar una bicicleta roja en el parque el lunes."),
    ((BUYING,), 9 / 10, "a word too many", "Anna va a comprar una bicicleta roja pesada en el mercado el lunes."),
    ((BUYING,), 6 / 9, "past instead of future", "Anna compró una bicicleta roja en el mercado el lunes."),
    ((BUYING,), 6 / 11, "in English from the place on", "Anna va a comprar una bicicleta roja at the market on Monday."),
    ((BUYING,), 0, "left in English", "Anna will buy a red bike at the market on Monday."),
    ((BUYING,), 0, "German", "Anna wird am Montag auf dem Markt ein rotes Fahrrad kaufen."),
    ((BUYING,), 0, "the name only", "Anna."),
    ((BUYING,), 1 / 2, "said twice", 2 * "Anna va a comprar una bicicleta roja en el mercado el lunes. "),
    ((BUYING,), 1 / 3, "two more sentences", "Lo siento. Anna va a comprar una bicicleta roja en el mercado el lunes. Sí."),
    (BOTH, 1 / 2, "one of two", "Anna va a comprar una bicicleta roja en el mercado el lunes."),
    (
        BOTH,
        (8 / 9 + 7 / 8) / 2,  # the second has 8 words: Tom rompió lámpara verde, en escuela, ayer is 7, and Anna is too many
        "agents of another order, one added",
        "Tom Anna rompió una lámpara verde en la escuela ayer. Va a comprar una bicicleta roja en el mercado el lunes.",
    ),
]
# Anna wird rot fahrrad kaufen, am montag, auf markt: 9. The style's own: all but Anna: 8.
GERMAN: list[Row] = [
    ((BUYING,), 1, "inverted behind the time", "Am Montag wird Anna auf dem Markt ein rotes Fahrrad kaufen."),
    ((BUYING,), 6 / 8, "another day", "Anna wird am Dienstag auf dem Markt ein rotes Fahrrad kaufen."),
    ((BUYING,), 8 / 9, "inverted behind nothing", "Wird Anna am Montag auf dem Markt ein rotes Fahrrad kaufen?"),
    (WHERE, 6 / 7, "no time", "Wo hast du den runden Schlüssel verloren?"),
    (STILL, 1 / 2, "reaction only", "Das klingt großartig!"),
]
# Je peux t aider à réparer chaise noire, au bureau: 10, all of them the style's own.
FRENCH: list[Row] = [
    (OFFER, 1, "place inside", "Je peux t'aider au bureau à réparer la chaise noire."),
    (OFFER, 9 / 10, "another noun", "Je peux t'aider à réparer la table noire au bureau."),
    (OFFER, 0, "left in English", "I can help you repair the black chair at the office."),
]
# So Anna s gonna grab red bike you know, down market, Monday: 12. The style's own: so s gonna grab you know.
CASUAL: list[Row] = [
    ((BUYING,), 1, "neutral phrases", "So on Monday Anna's gonna grab a red bike at the market, you know!"),
    ((BUYING,), 11 / 12, "another noun", "So Anna's gonna grab a red hat down the market Monday, you know."),
    ((BUYING,), 5 / 6, "a neutral verb", "So Anna's gonna buy a red bike down the market Monday, you know."),
    ((BUYING,), 4 / 6, "no tag", "So Anna's gonna grab a red bike down the market Monday."),
    ((BUYING,), 0, "left in neutral English", "Anna will buy a red bike at the market on Monday."),
    (STILL, (1 + 1 / 2) / 2, "one of the tone's words missing", "Awesome, dude! You still got the blue lamp?"),
]
# Please note that Anna intends to purchase red bike, at market, on Monday: 13. Its own: please note that intends to purchase.
PROFESSIONAL: list[Row] = [
    ((BUYING,), 1, "neutral noun", "Please note that Anna intends to purchase a red bike at the market on Monday."),
    ((BUYING,), 3 / 6, "neutral predicate", "Please note that Anna will buy a red bicycle at the market on Monday."),
    ((BUYING,), 6 / 13, "the tone without the meaning", "Please note that Tom intends to purchase an umbrella."),
]
ENGLISH: list[Row] = [
    ((BUYING,), 1, "exact", "Anna will buy a red bike at the market on Monday."),
    ((BUYING,), 7 / 9, "another place", "Anna will buy a red bike at the hotel on Monday."),
    ((BUYING,), 0, "Spanish", "El lunes voy al mercado."),
]
TABLE = {"es": SPANISH, "de": GERMAN, "fr": FRENCH, "casual": CASUAL, "professional": PROFESSIONAL, "en": ENGLISH}


@pytest.mark.parametrize(
    ("meaning", "style", "expected", "text"),
    [
        pytest.param(meaning, style, expected, text, id=f"{style}: {why}: {text[:24]}")
        for style, rows in TABLE.items()
        for meaning, expected, why, text in rows
    ],
)
def test_a_grade_by_value(meaning, style, expected, text):
    assert grade(text, meaning, style) == pytest.approx(expected)


# ---- against the verdict and the grammar


def variants(example: MeaningExample, other: MeaningExample, style: str, random: Random) -> list[str]:
    """Right and wrong outputs: the reference in five forms, with one word changed, moved and dropped, and other texts."""
    reference = render_all(example.meaning, style)
    words = reference.split()
    place = random.randrange(len(words))
    moved = [*words[:place], *words[place + 1 :]]
    return [
        *(reference, reference.lower(), reference[:-1], reference.replace(",", ""), render_all(example.meaning[::-1], style)),
        " ".join([*words[:place], "xyz", *words[place + 1 :]]),
        " ".join(moved),
        " ".join([words[place], *moved]),
        " ".join([*words[:place], "the", *words[place:]]),
        *(render_all(other.meaning, style), render_all(example.meaning, "en"), example.input, f"{reference} {reference}", ""),
    ]


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("source", SOURCES)
def test_the_grade_is_1_exactly_where_the_verdict_is_yes(source, style, examples):
    random, verdicts = Random(f"{source}/{style}"), []
    for number, example in enumerate(examples[source]):
        for text in variants(example, examples[source][number - 1], style, random):
            verdicts.append(says(text, example.meaning, style))
            found = grade(text, example.meaning, style)
            assert (found == 1) == verdicts[-1], (found, text, example.meaning)
            assert 0 <= found <= 1
    assert 0.3 < sum(verdicts) / len(verdicts) < 0.7, "both verdicts occur"


@pytest.mark.parametrize("style", STYLED)
@pytest.mark.parametrize("source", SOURCES)
def test_a_meaning_left_in_neutral_english_has_grade_0_in_every_other_style(source, style, examples):
    assert {grade(render_all(one.meaning, "en"), one.meaning, style) for one in examples[source]} == {0}


@pytest.mark.parametrize("style", STYLES)
def test_the_reference_of_another_example_has_less_than_half_and_grades_tell_it_from_one_wrong_word(style, examples):
    def mean(texts: list[str]) -> float:
        meanings = [example.meaning for example in examples["dialogs"]]
        return sum(grade(text, meaning, style) for text, meaning in zip(texts, meanings, strict=True)) / len(meanings)

    references = [render_all(example.meaning, style) for example in examples["dialogs"]]
    one_wrong = [" ".join(["xyz", *text.split()[1:]]) for text in references]
    assert mean(references[1:] + references[:1]) < 0.3
    assert 0.75 < mean(one_wrong) < 0.96


# ---- what lowers a grade


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("source", SOURCES)
def test_a_right_word_in_place_of_a_wrong_one_never_lowers_a_grade(source, style, examples):
    random = Random(f"{source}/{style}")
    for example in examples[source][:60]:
        words = render_all(example.meaning, style).split()
        wrong = ["xyz" + (word[-1] if word[-1] in ".!?" else "") for word in words]  # sentences stay apart
        assert_never_lowered(wrong, words, example.meaning, style, random)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("source", SOURCES)
def test_a_missing_word_that_is_added_to_its_sentence_never_lowers_a_grade(source, style, examples):
    random = Random(f"{source}/{style}")
    for sentence in dict.fromkeys(sentence for example in examples[source][:60] for sentence in example.meaning):
        words = render_all((sentence,), style).split()
        assert_never_lowered(["" for _ in words], words, (sentence,), style, random)


def assert_never_lowered(text: list[str], words: list[str], meaning: tuple[Sentence, ...], style: str, random: Random) -> None:
    """Put the words of the reference into a text one by one, in random order."""
    grades = [grade(" ".join(text), meaning, style)]
    for place in random.sample(range(len(words)), len(words)):
        text[place] = words[place]
        grades.append(grade(" ".join(text), meaning, style))
    assert grades == sorted(grades), (meaning, grades)
    assert (grades[0], grades[-1]) == (0, 1)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("source", SOURCES)
def test_what_is_added_to_a_reference_lowers_its_grade(source, style, examples):
    for number, example in enumerate(examples[source][:60]):
        reference, other = render_all(example.meaning, style), render_all(examples[source][number - 1].meaning, style)
        added = [grade(text, example.meaning, style) for text in (f"xyz {reference}", f"{reference} Xyz.", f"{reference} {other}")]
        assert max(added) < 1
        assert added[2] <= 2 / 3


@pytest.mark.parametrize("style", STYLED)
def test_pasting_many_references_is_worth_little(style, examples):
    pasted = " ".join(render_all(example.meaning, style) for example in examples["dialogs"])
    assert max(grade(pasted, example.meaning, style) for example in examples["dialogs"][:20]) <= 2 / 250


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("text", ["", " \n", "...", "No.", "Answer: yes", "<|eot_id|>", "\x00", "🎉"])
def test_a_text_that_says_nothing_of_a_meaning_has_grade_0(text, style):
    assert {grade(text, meaning, style) for meaning in [(BUYING,), BOTH, STILL, WHERE, OFFER]} == {0}


EXACT = "So Anna's gonna grab a red bike down the market Monday, you know."


@pytest.mark.parametrize(
    "text",
    [
        EXACT * 150,
        EXACT[:-1] * 150,
        "So Anna's gonna grab a red bike " + "down the market Monday at the market on Monday " * 210 + ", you know.",
        "the " * 2500 + EXACT,
        "e" + "\u0301" * 10_000,
    ],
    ids=lambda text: text[:12],
)
def test_ten_thousand_characters_are_graded_at_once_and_low(text):
    assert grade(text, (BUYING,), "casual") < 0.02
