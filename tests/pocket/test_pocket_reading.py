"""Reading Pocket's English: back and forth over all examples, and by value on sentences written by hand."""

from __future__ import annotations

import unicodedata

import pytest

from compositional.core.errors import UserError
from compositional.pocket.examples import SOURCES, SPLIT_SIZES, MeaningExample, draw_examples
from compositional.pocket.lexicon import ADJECTIVES, NAMES, NOUNS, PLACES, TIMES, VERBS
from compositional.pocket.meaning import Event, Offer, Question, Reaction, Sentence, Statement, StillThere
from compositional.pocket.reading import read_english
from compositional.pocket.sentences import STYLES, render_all

# ---- over all examples


@pytest.fixture(scope="module")
def examples() -> dict[tuple[str, str], list[MeaningExample]]:
    return {(source, split): list(draw_examples(source, split)) for source in SOURCES for split in SPLIT_SIZES}


@pytest.mark.parametrize("split", SPLIT_SIZES)
@pytest.mark.parametrize("source", SOURCES)
def test_what_was_read_is_said_like_the_original_in_every_style(source, split, examples):
    originals = [example.meaning for example in examples[source, split]]
    read = [read_english(render_all(meaning, "en")) for meaning in originals]
    wrong = [
        (style, render_all(original, style), meaning)
        for original, meaning in zip(originals, read, strict=True)
        for style in STYLES
        if render_all(meaning, style) != render_all(original, style)
    ]
    assert wrong == []
    assert len(read) == SPLIT_SIZES[split]


@pytest.mark.parametrize("split", SPLIT_SIZES)
def test_the_meaning_of_a_summary_is_read_whole(split, examples):
    originals = [example.meaning for example in examples["dialogs", split]]
    assert [read_english(render_all(meaning, "en")) for meaning in originals] == originals


@pytest.mark.parametrize("entries", [VERBS, NOUNS, ADJECTIVES, PLACES, TIMES])
def test_an_entry_of_the_lexicon_goes_by_its_english(entries):
    assert [entry.english for entry in entries.values()] == list(entries)


@pytest.mark.parametrize(
    "choices",
    [
        NAMES,
        [*(verb.past for verb in VERBS.values()), *(f"will {verb}" for verb in VERBS)],
        [*VERBS],
        [*ADJECTIVES, *NOUNS],
        [*PLACES, *TIMES],
    ],
    ids=["agents", "predicates", "verbs", "adjectives and nouns", "places and times"],
)
def test_no_two_readings_are_possible(choices):
    """Where one of several entries may follow, none is there twice and none begins another one: a text has one reading."""
    assert len(set(choices)) == len(choices)
    assert [(one, other) for one in choices for other in choices if other.startswith(f"{one} ")] == []
    assert [choice for choice in choices if any(mark in choice for mark in ".?!")] == []


# ---- by value

ANNA = Statement(Event("Anna", "buy", "bike", "red", "at the market", "on Monday", False))
CHLOE = Statement(Event("Chloé", "read", "omelette", None, "in the café", None, True))


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("Anna will buy a red bike at the market on Monday.", (ANNA,)),
        ("Chloé read an omelette in the café.", (CHLOE,)),
        ("Chloé read an omelette in the café. Anna will buy a red bike at the market on Monday.", (CHLOE, ANNA)),
        ("Tom will read a book next week.", (Statement(Event("Tom", "read", "book", None, None, "next week", False)),)),
        (
            "Zoë broke a strange umbrella at school last night.",
            (Statement(Event("Zoë", "break", "umbrella", "strange", "at school", "last night", True)),),
        ),
        ("That sounds great!", (Reaction("good"),)),
        ("I am sorry to hear that.", (Reaction("bad"),)),
        ("I did not expect that! You are good at such things!", (Reaction("surprise"), Reaction("luck"))),
    ],
)
def test_the_meaning_of_a_text_that_names_all_of_it(text, meaning):
    assert read_english(text) == meaning


def all_but_the_agent(sentence: Sentence) -> tuple[str | bool | None, ...]:
    event = sentence.event
    return event.verb, event.noun, event.adjective, event.place, event.time, event.past


@pytest.mark.parametrize(
    ("text", "asks", "slots"),
    [
        ("Where did you lose the round key yesterday?", "where", ("lose", "key", "round", None, "yesterday", True)),
        ("Where will you read the book?", "where", ("read", "book", None, None, None, False)),
        ("When did you read the book in the park?", "when", ("read", "book", None, "in the park", None, True)),
        ("When will you rent the blue camera?", "when", ("rent", "camera", "blue", None, None, False)),
    ],
)
def test_the_meaning_of_a_question(text, asks, slots):
    (question,) = read_english(text)
    assert isinstance(question, Question)
    assert question.asks == asks
    assert all_but_the_agent(question) == slots


@pytest.mark.parametrize(
    ("text", "slots"),
    [
        ("I can help you order the green salad at the hotel.", ("order", "salad", "green", "at the hotel", None, False)),
        ("I can help you hide the umbrella.", ("hide", "umbrella", None, None, None, False)),
    ],
)
def test_the_meaning_of_an_offer(text, slots):
    (offer,) = read_english(text)
    assert isinstance(offer, Offer)
    assert all_but_the_agent(offer) == slots


@pytest.mark.parametrize(("thing", "adjective", "noun"), [("heavy boat", "heavy", "boat"), ("omelette", None, "omelette")])
def test_the_meaning_of_asking_for_a_thing_after_a_reaction(thing, adjective, noun):
    reaction, still_there = read_english(f"I am sorry to hear that. Do you still have the {thing}?")
    assert reaction == Reaction("bad")
    assert isinstance(still_there, StillThere)
    assert (still_there.event.adjective, still_there.event.noun) == (adjective, noun)


def test_words_that_the_lexicon_would_not_put_together_are_read_and_can_be_said():
    meaning = read_english("Max will cook a round drum at church last week.")
    assert meaning == (Statement(Event("Max", "cook", "drum", "round", "at church", "last week", False)),)
    assert render_all(meaning, "paraphrase") == "Last week, at church, a round drum will be cooked by Max."


# ---- what is refused


NEAR_MISSES = [
    ("", "nothing"),
    (" ", "a space"),
    (".", "a full stop"),
    ("Anna will buy an red bike at the market.", "an for a"),
    ("Tom cooked a omelette yesterday.", "a for an"),
    ("Anna will buy the red bike at the market.", "the for a"),
    ("Anna will buy red bike at the market.", "no article"),
    ("Where did you lose a key yesterday?", "a for the"),
    ("Susan will buy a red bike at the market.", "unknown name"),
    ("Anna will steal a red bike at the market.", "unknown verb"),
    ("Anna will buy a pink bike at the market.", "unknown adjective"),
    ("Anna will buy a red house at the market.", "unknown noun"),
    ("Anna will buy a red bike at the bank.", "unknown place"),
    ("Anna will buy a red bike in April.", "unknown time"),
    ("Anna will buy a red bike at the market", "no full stop"),
    ("Anna will buy a red bike at the market?", "a question mark for a full stop"),
    ("Anna will buy a red bike at the market..", "two full stops"),
    ("Where did you lose the key yesterday.", "a full stop for a question mark"),
    ("That sounds great.", "a full stop for an exclamation mark"),
    ("Anna will buy a red bike at the market. Yes", "trailing word"),
    ("Anna will buy a red bike at the market today.", "trailing time"),
    ("So Anna will buy a red bike at the market.", "leading word"),
    ("anna will buy a red bike at the market.", "lower-case name"),
    ("where did you lose the key yesterday?", "lower-case question"),
    ("that sounds great!", "lower-case reaction"),
    ("Anna will buy a red bike.", "statement with neither place nor time"),
    ("Anna will buy a red bike on Monday at the market.", "time before place"),
    ("Anna will buy a red bike at the market at school.", "two places"),
    ("Anna will buy a red round bike at the market.", "two adjectives"),
    ("Anna will bought a red bike at the market.", "past after will"),
    ("Anna buy a red bike at the market.", "neither will nor past"),
    ("Anna will purchase a red bicycle at the market.", "words of a tone"),
    ("Where did you lost the key yesterday?", "past after did"),
    ("Where did you lose the key at school?", "place in a question for it"),
    ("When did you lose the key yesterday?", "time in a question for it"),
    ("Who lost the key yesterday?", "another question"),
    ("I can help you buy the bike tomorrow.", "offer with a time"),
    ("I can help you bought the bike at school.", "offer of the past"),
    ("Do you still have the bike at school?", "thing with a place"),
    ("Do you still have the yellow?", "no noun"),
    ("Anna will buy a red bike at the market. Anna will fly.", "one good sentence and a bad one"),
    ("That sounds great!Do you still have the bike?", "no space between sentences"),
    ("That sounds great!  Do you still have the bike?", "two spaces between sentences"),
    ("That sounds great!\nDo you still have the bike?", "a line break between sentences"),
    ("Anna will buy a  red bike at the market.", "two spaces between words"),
    ("Anna will buy a redbike at the market.", "no space between words"),
    (" Anna will buy a red bike at the market.", "a space in front"),
    ("Anna will buy a red bike at the market. ", "a space behind"),
    ("Anna will buy a red bike at the market.\n", "a line break behind"),
    (unicodedata.normalize("NFD", "Zoë read a letter yesterday."), "decomposed accent"),
]


@pytest.mark.parametrize("text", [pytest.param(text, id=why) for text, why in NEAR_MISSES])
def test_a_near_miss_is_refused(text):
    with pytest.raises(UserError) as caught:
        read_english(text)
    assert caught.value.mistakes == (f"Pocket's grammar can't read {text!r}",)


@pytest.mark.parametrize("style", [style for style in STYLES if style != "en"])
def test_what_is_said_in_another_style_is_refused(style):
    with pytest.raises(UserError):
        read_english(render_all((ANNA,), style))


def test_a_refusal_is_one_line_that_shows_the_start_of_a_long_text():
    for character in ("x", "\n", "\u2028"):
        with pytest.raises(UserError) as caught:
            read_english(character * 10_000)
        assert str(caught.value) == f"Pocket's grammar can't read {character * 60 + '…'!r}"
        assert len(str(caught.value).splitlines()) == 1
