"""The text that Pocket's base model is pre-trained on: its languages, its words, and a few chats about text.

The corpus holds parallel sentences, dialogues with questions and answers about them, and replies of
every kind, so that the model knows what the words mean. It holds no summary, no reply by Pocket's rule and no
instruction of a task: those are learned by LoRA adapters. All events are of the training split.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from compositional.pocket.dialogues import write_dialogue
from compositional.pocket.english import english_first_person, english_object
from compositional.pocket.examples import draw_event, draw_meaning
from compositional.pocket.lexicon import LANGUAGES, TONES, VERBS
from compositional.pocket.meaning import Event, Offer, Question, Reaction, Sentence, Statement, StillThere
from compositional.pocket.sentences import render, render_all

LABELS = {"en": "English", **LANGUAGES, **{tone: tone.capitalize() for tone in TONES}}


@dataclass(frozen=True)
class Chat:
    """One user turn and the assistant's answer."""

    user: str
    assistant: str


def draw_document(random: Random) -> str | Chat:
    """A document of the corpus: running text, or a chat about some text."""
    return random.choices(
        (_parallel_text, _story, _talk, _questions_about_a_dialogue, _chat_about_text),
        weights=(45, 8, 10, 17, 20),
    )[0](random)


def _parallel_text(random: Random) -> str:
    """The same sentences in two or three styles, labelled, as in a phrase book."""
    others = list(LANGUAGES) * 2 + list(TONES)
    styles = ["en", *dict.fromkeys(random.choice(others) for _ in range(random.randint(1, 2)))]
    random.shuffle(styles)
    blocks = []
    for _ in range(random.randint(1, 3)):
        meaning = draw_meaning(random, "train")
        blocks += [f"{LABELS[style]}: {render_all(meaning, style)}" for style in styles]
    return "\n".join(blocks)


def _story(random: Random) -> str:
    """Unrelated statements in one style."""
    style = random.choice(list(LABELS))
    return " ".join(render(Statement(draw_event(random, "train")), style) for _ in range(random.randint(2, 5)))


def _talk(random: Random) -> str:
    """Turns that tell an event, each with some reply, whether or not Pocket's rule would choose it."""
    turns = []
    for _ in range(random.randint(1, 3)):
        event = draw_event(random, "train")
        reaction = Reaction(random.choice([verb.mood for verb in VERBS.values()]))
        follow_up: Sentence = random.choice((Offer(event), StillThere(event), Question(event, random.choice(("where", "when")))))
        turns += [english_first_person(event) + ".", render_all((reaction, follow_up), "en")]
    return "\n".join(turns)


def _questions_about_a_dialogue(random: Random) -> str:
    dialogue, events = _dialogue(random)
    asked = [random.choice(_questions(event)) for event in events for _ in range(2)]
    return "\n".join([dialogue, "", *(f"{question} {answer}" for question, answer in asked)])


def _chat_about_text(random: Random) -> Chat:
    """Repeat a text, repeat a line of a dialogue, or answer a question about it."""
    kind = random.random()
    if kind < 0.3:
        style = random.choice(list(LABELS))
        text = render_all(draw_meaning(random, "train"), style)
        return Chat(f"Repeat the following text:\n\n{text}", text)
    dialogue, events = _dialogue(random)
    if kind < 0.5:
        return Chat(f"Repeat the last line of the following text:\n\n{dialogue}", dialogue.splitlines()[-1])
    question, answer = random.choice(_questions(random.choice(events)))
    return Chat(f"{question}\n\n{dialogue}", answer)


def _dialogue(random: Random) -> tuple[str, list[Event]]:
    events = [draw_event(random, "train") for _ in range(random.randint(1, 2))]
    return write_dialogue(events, random, small_talk=1.0).text, events


def _questions(event: Event) -> list[tuple[str, str]]:
    """A question for each slot of an event, which names the event by other slots, and its answer."""
    verb = VERBS[event.verb]
    did, predicate = ("did", verb.past) if event.past else ("will", f"will {verb.english}")
    the_object = english_object(event, definite=True)
    questions = [
        (f"Who {predicate} {the_object}?", f"{event.agent}."),
        (f"What {did} {event.agent} {event.verb}?", f"{english_object(event, definite=False)}."),
    ]
    if event.place:
        questions.append((f"Where {did} {event.agent} {event.verb} {the_object}?", f"{event.place}."))
    if event.time:
        questions.append((f"When {did} {event.agent} {event.verb} {the_object}?", f"{event.time}."))
    return questions
