"""Pocket's sets, grammar, corpus and tokenizer, by value."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

from compositional.core.files import hash_of_json
from compositional.data import Example, Locations, all_datasets, find_dataset
from compositional.pocket.corpus import Chat, draw_document
from compositional.pocket.dialogues import SMALL_TALK
from compositional.pocket.english import english_first_person
from compositional.pocket.examples import SOURCES, SPLIT_SIZES, draw_examples
from compositional.pocket.lexicon import ADJECTIVES, NAMES, NOUNS, PLACES, TIMES, VERBS
from compositional.pocket.meaning import Event, Offer, Question, Reaction, Statement, StillThere
from compositional.pocket.sentences import STYLES, render
from helpers import PROJECT

LOCATIONS = Locations(Path("nowhere"), None)
VARIANTS = ("es", "fr", "de", "professional", "casual", "witty", "paraphrase")
MAIN = ("pocket_dialogs", "pocket_replies")
COMPOSITIONAL = [f"{main}_{variant}" for main in MAIN for variant in VARIANTS]
OF_THREE_TASKS = [f"pocket_dialogs_{language}_casual" for language in ("es", "fr", "de")]
NAMES_OF_SETS = [*MAIN, *COMPOSITIONAL, *OF_THREE_TASKS, *(f"pocket_sentences_{variant}" for variant in VARIANTS)]


@pytest.fixture(scope="module")
def meanings() -> dict[str, list]:
    """The meanings of each split's examples, of all sources together."""
    return {split: [example for source in SOURCES for example in draw_examples(source, split)] for split in SPLIT_SIZES}


def read(name: str, split: str) -> list[Example]:
    return find_dataset(name, LOCATIONS).read(split)


def events(examples: list) -> list[Event]:
    return [sentence.event for example in examples for sentence in example.meaning if not isinstance(sentence, Reaction)]


def slots(event: Event) -> tuple:
    return event.verb, event.noun, event.adjective, event.place, event.time


def held_out_events(meanings: dict[str, list]) -> list[Event]:
    return events(meanings["validation"]) + events(meanings["test"])


# ---- the sets


def test_there_are_23_sets_as_in_the_paper_and_three_of_three_tasks():
    assert sorted(one.name for one in all_datasets(LOCATIONS).values() if one.benchmark == "pocket") == sorted(NAMES_OF_SETS)
    assert len(NAMES_OF_SETS) == 23 + 3


@pytest.mark.parametrize("name", NAMES_OF_SETS)
def test_each_set_has_8000_250_and_250_examples_with_inputs_and_ids_of_their_own(name):
    for split, size in {"train": 8000, "validation": 250, "test": 250}.items():
        examples = read(name, split)
        assert len(examples) == len({example.id for example in examples}) == len({example.input for example in examples}) == size
        assert all(example.reference.strip() for example in examples)


@pytest.mark.parametrize("name", COMPOSITIONAL)
def test_a_compositional_set_has_the_inputs_of_its_main_set_and_targets_of_its_own(name):
    compositional, main = find_dataset(name, LOCATIONS), find_dataset(name.rsplit("_", 1)[0], LOCATIONS)
    assert compositional.inputs_of == main.name
    for split in ("validation", "test"):
        ours, theirs = compositional.read(split), main.read(split)
        assert [(example.id, example.input) for example in ours] == [(example.id, example.input) for example in theirs]
        assert all(one.reference != other.reference for one, other in zip(ours, theirs, strict=True))


@pytest.mark.parametrize(("variant", "sorry"), [("es", "Siento mucho oír eso."), ("casual", "Aw man, that sucks.")])
def test_a_compositional_target_says_the_main_target_in_its_language_or_tone(variant, sorry):
    pairs = list(zip(read("pocket_replies", "test"), read(f"pocket_replies_{variant}", "test"), strict=True))
    said = [(one.reference.startswith("I am sorry to hear that."), other.reference.startswith(sorry)) for one, other in pairs]
    assert set(said) == {(True, True), (False, False)}


def test_no_combination_of_slots_of_a_held_out_example_is_in_training(meanings):
    training = {slots(event) for event in events(meanings["train"])}
    assert len(training) > 20_000
    assert not training & {slots(event) for event in held_out_events(meanings)}
    assert not {slots(event) for event in events(meanings["validation"])} & {slots(event) for event in events(meanings["test"])}


def test_no_line_of_a_training_dialogue_tells_a_held_out_combination(meanings):
    held_out = {english_first_person(event) + "." for event in held_out_events(meanings)}
    lines = [line.split(": ", 1)[1] for example in draw_examples("dialogs", "train") for line in example.input.splitlines()]
    assert [line for line in lines if line in held_out] == []


@pytest.mark.parametrize(("name", "expected"), [("pocket_replies", 78), ("pocket_dialogs", 0)])
def test_how_many_test_targets_are_targets_of_training_is_as_documented(name, expected):
    training, test = read(name, "train"), read(name, "test")
    said = {one.reference for one in training}
    assert sum(one.reference in said for one in test) == expected
    assert not {one.input for one in test} & {other.input for other in training}
    assert "78 of the 250 test replies" in (PROJECT / "docs" / "data.md").read_text(encoding="utf-8")


def test_reading_twice_gives_the_same_examples():
    for name in ("pocket_dialogs_de", "pocket_replies", "pocket_sentences_witty"):
        assert read(name, "test") == read(name, "test")


@pytest.mark.slow
def test_another_process_with_another_hash_seed_reads_the_same_examples():
    script = (
        "from pathlib import Path\nfrom compositional.data import find_dataset, Locations\n"
        "from compositional.core.files import hash_of_json\n"
        "examples = find_dataset('pocket_dialogs_es', Locations(Path('nowhere'), None)).read('test')\n"
        "print(hash_of_json([[e.id, e.input, e.reference] for e in examples]))"
    )
    ours = hash_of_json([[e.id, e.input, e.reference] for e in read("pocket_dialogs_es", "test")])
    for seed in ("1", "2"):
        environment = os.environ | {"PYTHONHASHSEED": seed}
        done = subprocess.run([sys.executable, "-c", script], cwd=PROJECT, env=environment, capture_output=True, text=True)
        assert done.stdout.strip() == ours, done.stderr


# ---- sentences by value

TO_COME = Statement(Event("Anna", "buy", "bike", "red", "at the market", "on Monday", False))
PAST = Statement(Event("José", "forget", "umbrella", "strange", None, "yesterday", True))
PLAIN = Statement(Event("Zoë", "read", "letter", None, "in the kitchen", None, True))
WHERE = Question(Event("Mia", "read", "story", "strange", None, "last night", True), "where")
WHEN = Question(Event("Leo", "rent", "camera", None, "at the hotel", None, False), "when")
OFFER = Offer(Event("Tom", "cook", "omelette", "green", "in the kitchen", "tomorrow", False))
STILL = StillThere(Event("Nora", "paint", "lamp", "blue", "at school", "last week", True))

RENDERINGS = [
    (TO_COME, "en", "Anna will buy a red bike at the market on Monday."),
    (TO_COME, "es", "Anna va a comprar una bicicleta roja en el mercado el lunes."),
    (TO_COME, "fr", "Anna va acheter un vélo rouge au marché lundi."),
    (TO_COME, "de", "Anna wird am Montag auf dem Markt ein rotes Fahrrad kaufen."),
    (TO_COME, "professional", "Please note that Anna intends to purchase a red bicycle at the market on Monday."),
    (TO_COME, "casual", "So Anna's gonna grab a red bike down the market Monday, you know."),
    (TO_COME, "witty", "Breaking news: Anna will buy a red bike at the market on Monday, hide your wallets!"),
    (TO_COME, "paraphrase", "On Monday, at the market, a red bike will be bought by Anna."),
    (PAST, "en", "José forgot a strange umbrella yesterday."),
    (PAST, "es", "José olvidó un paraguas extraño ayer."),
    (PAST, "fr", "José a oublié un parapluie étrange hier."),
    (PAST, "de", "José hat gestern einen seltsamen Regenschirm vergessen."),
    (PAST, "professional", "Please note that José overlooked a strange umbrella yesterday."),
    (PAST, "casual", "So José spaced on a strange umbrella yesterday, you know."),
    (PAST, "witty", "Breaking news: José forgot a strange umbrella yesterday, elephants are laughing!"),
    (PAST, "paraphrase", "Yesterday, a strange umbrella was forgotten by José."),
    (PLAIN, "en", "Zoë read a letter in the kitchen."),
    (PLAIN, "es", "Zoë leyó una carta en la cocina."),
    (PLAIN, "fr", "Zoë a lu une lettre dans la cuisine."),
    (PLAIN, "de", "Zoë hat in der Küche einen Brief gelesen."),
    (PLAIN, "paraphrase", "In the kitchen, a letter was read by Zoë."),
    (WHERE, "en", "Where did you read the strange story last night?"),
    (WHERE, "es", "¿Dónde leíste la historia extraña anoche?"),
    (WHERE, "fr", "Où as-tu lu l'histoire étrange hier soir ?"),
    (WHERE, "de", "Wo hast du gestern Abend die seltsame Geschichte gelesen?"),
    (WHERE, "professional", "May I ask where you reviewed the strange narrative last night?"),
    (WHERE, "casual", "Hey, where'd you skim the strange story last night?"),
    (WHERE, "witty", "My map is blank: where did you read the strange story last night?"),
    (WHERE, "paraphrase", "At what place was the strange story read last night?"),
    (WHEN, "en", "When will you rent the camera at the hotel?"),
    (WHEN, "es", "¿Cuándo vas a alquilar la cámara en el hotel?"),
    (WHEN, "fr", "Quand vas-tu louer l'appareil à l'hôtel ?"),
    (WHEN, "de", "Wann wirst du im Hotel die Kamera mieten?"),
    (WHEN, "professional", "May I ask when you intend to lease the camera at the hotel?"),
    (WHEN, "casual", "Hey, when you gonna snag the camera at the hotel?"),
    (WHEN, "witty", "My calendar is curious: when will you rent the camera at the hotel?"),
    (WHEN, "paraphrase", "At what time will the camera be rented at the hotel?"),
    (OFFER, "en", "I can help you cook the green omelette in the kitchen."),
    (OFFER, "es", "Puedo ayudarte a cocinar la tortilla verde en la cocina."),
    (OFFER, "fr", "Je peux t'aider à cuisiner l'omelette verte dans la cuisine."),
    (OFFER, "de", "Ich kann dir helfen, in der Küche das grüne Omelett zu kochen."),
    (OFFER, "professional", "I would be pleased to assist you in preparing the green omelette in the kitchen."),
    (OFFER, "casual", "I can totally help ya whip up the green omelette in the kitchen."),
    (OFFER, "paraphrase", "You can count on me to cook the green omelette in the kitchen."),
    (STILL, "en", "Do you still have the blue lamp?"),
    (STILL, "es", "¿Todavía tienes la lámpara azul?"),
    (STILL, "fr", "As-tu encore la lampe bleue ?"),
    (STILL, "de", "Hast du die blaue Lampe noch?"),
    (STILL, "professional", "May I ask whether you still possess the blue luminaire?"),
    (STILL, "casual", "You still got the blue lamp, right?"),
    (STILL, "witty", "My spies want to know: do you still have the blue lamp?"),
    (STILL, "paraphrase", "Is the blue lamp still in your hands?"),
    (Reaction("bad"), "es", "Siento mucho oír eso."),
    (Reaction("good"), "fr", "Ça a l'air génial !"),
    (Reaction("luck"), "de", "Das kannst du wirklich gut!"),
    (Reaction("surprise"), "casual", "Whoa, no way!"),
]


@pytest.mark.parametrize(("sentence", "style", "text"), RENDERINGS, ids=[text for _, _, text in RENDERINGS])
def test_a_sentence_by_value(sentence, style, text):
    assert render(sentence, style) == text


@pytest.mark.parametrize(
    ("noun", "adjective", "german", "spanish", "french"),
    [
        ("coat", "black", "einen schwarzen Mantel", "un abrigo negro", "un manteau noir"),
        ("guitar", "red", "eine rote Gitarre", "una guitarra roja", "une guitare rouge"),
        ("boat", "heavy", "ein schweres Boot", "un barco pesado", "un bateau lourd"),
        ("key", "round", "einen runden Schlüssel", "una llave redonda", "une clé ronde"),
        ("camera", "green", "eine grüne Kamera", "una cámara verde", "un appareil vert"),
    ],
)
def test_adjectives_agree_with_their_nouns(noun, adjective, german, spanish, french):
    event = Event("Max", "sell", noun, adjective, None, "yesterday", True)
    assert render(Statement(event), "de") == f"Max hat gestern {german} verkauft."
    assert render(Statement(event), "es") == f"Max vendió {spanish} ayer."
    assert render(Statement(event), "fr") == f"Max a vendu {french} hier."


def test_styles_of_one_sentence_are_all_different():
    for sentence in (TO_COME, PAST, WHERE, WHEN, OFFER, STILL, *map(Reaction, ("good", "bad", "surprise", "luck"))):
        assert len({render(sentence, style) for style in STYLES}) == len(STYLES) == 8


def test_every_word_of_the_lexicon_can_be_said_in_every_style():
    verbs = [(verb, noun) for verb in VERBS for noun in NOUNS if NOUNS[noun].noun_class in VERBS[verb].takes]
    for number, (verb, noun) in enumerate(verbs):
        adjective, place = list(ADJECTIVES)[number % len(ADJECTIVES)], list(PLACES)[number % len(PLACES)]
        for past in (True, False):
            times = [time for time, entry in TIMES.items() if entry.tense in ("any", "past" if past else "future")]
            event = Event(NAMES[number % len(NAMES)], verb, noun, adjective, place, times[number % len(times)], past)
            for sentence in (Statement(event), Question(event, "where"), Question(event, "when"), Offer(event), StillThere(event)):
                for style in STYLES:
                    said = render(sentence, style)
                    assert re.fullmatch(r"[¿¡]?[^\W\d_].*[.?!]", said), said
                    assert "  " not in said
                    assert "|" not in said


# ---- the reply rule

REACTIONS = {
    "bought": "That sounds great!",
    "will buy": "That sounds great!",
    "lost": "I am sorry to hear that.",
    "will lose": "I am sorry to hear that.",
    "sold": "I did not expect that!",
    "will sell": "I did not expect that!",
    "cleaned": "You are good at such things!",
    "will clean": "You are good at such things!",
}


def told_event(turn: str) -> str:
    """The sentence of a turn that tells the event: what is left without the small talk."""
    for remark, _ in SMALL_TALK:
        turn = turn.replace(remark, "")
    return turn.strip()


def test_a_reply_asks_for_what_is_open_and_else_looks_ahead_or_back():
    seen = set()
    for example in read("pocket_replies", "train")[:1000]:
        told = told_event(example.input)
        assert told.startswith("I ")
        assert told.count(".") == 1
        place, time = any(place in told for place in PLACES), any(time in told for time in TIMES)
        if not place:
            start, kind = "Where ", "where"
        elif not time:
            start, kind = "When ", "when"
        elif told.startswith("I will "):
            start, kind = "I can help you ", "offer"
        else:
            start, kind = "Do you still have ", "still"
        reaction, follow_up = re.fullmatch(r"([^.!]+[.!]) (.+)", example.reference).groups()
        assert follow_up.startswith(start), example
        for verb, expected in REACTIONS.items():
            if told.startswith(f"I {verb} "):
                assert reaction == expected, example
                seen.add(verb)
        seen.add(kind)
    assert {"where", "when", "offer", "still", *REACTIONS} == seen


def test_a_summary_states_the_events_of_its_dialogue_in_their_order():
    for example, drawn in zip(read("pocket_dialogs", "test"), draw_examples("dialogs", "test"), strict=True):
        assert example.input == drawn.input
        assert example.reference == " ".join(render(sentence, "en") for sentence in drawn.meaning)
        speakers = {line.split(": ", 1)[0] for line in example.input.splitlines()}
        assert len(speakers) == 2
        assert {sentence.event.agent for sentence in drawn.meaning} <= speakers
        for sentence in drawn.meaning:
            told = example.input.lower()
            assert sentence.event.noun in told
            assert not sentence.event.place or sentence.event.place.lower() in told
            assert not sentence.event.time or sentence.event.time.lower() in told


# ---- the corpus and the tokenizer


def test_the_corpus_states_no_held_out_event(meanings):
    held_out = {render(Statement(event), "en").split(" ", 1)[1] for event in held_out_events(meanings)}
    random, stated = Random("corpus test"), 0
    for _ in range(4000):
        document = draw_document(random)
        text = document if isinstance(document, str) else f"{document.user}\n{document.assistant}"
        for sentence in re.split(r"(?<=[.?!])\s+|\n+|(?<=[a-z]): ", text):
            name, _, rest = sentence.partition(" ")
            if name in NAMES and rest.endswith("."):
                stated += 1
                assert rest not in held_out, sentence
    assert stated > 500


def test_the_corpus_holds_no_instruction_of_a_task():
    from compositional.tasks import all_tasks

    random = Random("instructions")
    chats = 0
    for _ in range(2000):
        document = draw_document(random)
        if isinstance(document, Chat):
            chats += 1
            assert not any(document.user.startswith(task.instruction) for task in all_tasks())
    assert chats > 100


@pytest.mark.parametrize(
    "text",
    [
        *("Zoë ¿qué? 你好 🎉 …", "  two  spaces \n\n\ttab ", "Straße, Äpfel, l'été", "شكراً हिन्दी ไทย русский"),
        *("👩🏽‍🚀 ❤️", "\u200bzero width\u00a0no break", "a\r\nb", "don 't , you ?"),
        "".join(map(chr, [*range(1, 0x180), 0x2028, 0xFFFD, 0x1F600, 0x10FFFF])),
    ],
)
def test_the_tokenizer_gives_any_text_back(text, tiny_tokenizer):
    ids = tiny_tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tiny_tokenizer.decode(ids) == text
    assert not set(ids) & set(tiny_tokenizer.all_special_ids)


def test_the_tokenizer_knows_the_corpus_in_few_tokens(tiny_tokenizer):
    ids = tiny_tokenizer("Anna va a comprar una bicicleta roja en el mercado el lunes.", add_special_tokens=False)["input_ids"]
    assert len(ids) < 25
