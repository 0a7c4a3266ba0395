"""Synthetic-Persona-Chat: generated conversations between two people (Jandaghi et al. 2023), CC BY 4.0.

Hub: google/Synthetic-Persona-Chat; publishers' files: Synthetic-Persona-Chat_{train,valid,test}.csv; column "Best Generated
Conversation", a line per turn ("User 1: Hi!"). Each pair of consecutive lines by different users gives one example, turn
→ next turn, without the prefix. Validation and test are seeded samples of 1,000 pairs, as in the paper's later code base.
Example: "What is your favorite thing to do?" → "I like to move objects with my mind."
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from random import Random

from src.data import Dataset, Example, Locations, field
from src.errors import UserError
from src.tasks import find_task

NAME = "synthetic_persona_chat"
HUB_ID = "google/Synthetic-Persona-Chat"
FILES = {
    "train": "Synthetic-Persona-Chat_train.csv",
    "validation": "Synthetic-Persona-Chat_valid.csv",
    "test": "Synthetic-Persona-Chat_test.csv",
}
COLUMN = "Best Generated Conversation"
SAMPLED = {"validation": 1000, "test": 1000}
_TURN = re.compile(r"^(User \d+):\s*(.*?)\s*$")


def datasets(locations: Locations) -> list[Dataset]:
    return [Dataset(NAME, (find_task("reply"),), NAME, partial(_read, locations))]


def adjacent_turns(conversation: str) -> Iterator[tuple[str, str]]:
    """Pairs of consecutive lines by different users, without "User N: ". A line that is no turn (a recipe, say) breaks a pair."""
    turns = [_TURN.match(line) for line in conversation.splitlines()]
    for turn, next_turn in pairwise(turns):
        if turn and next_turn and turn[1] != next_turn[1] and turn[2] and next_turn[2]:
            yield turn[2], next_turn[2]


def _read(locations: Locations, split: str) -> list[Example]:
    conversations = _from_files(locations, split) if locations.raw else _from_hub(split)
    examples = [
        Example(f"{split}_{row}_{number}", text, reply)
        for row, conversation in conversations
        for number, (text, reply) in enumerate(adjacent_turns(conversation))
    ]
    wanted = SAMPLED.get(split)
    if wanted and len(examples) > wanted:
        chosen = sorted(Random(f"{NAME}/{split}").sample(range(len(examples)), wanted))
        examples = [examples[index] for index in chosen]
    return examples


def _from_hub(split: str) -> Iterator[tuple[int, str]]:
    from src.hub import load_hub_split

    for number, row in enumerate(load_hub_split(HUB_ID, split)):
        yield number, field(row, COLUMN, f"{HUB_ID}, {split}, row {number}")


def _from_files(locations: Locations, split: str) -> Iterator[tuple[int, str]]:
    path = locations.raw / FILES[split]
    if not path.is_file():
        raise UserError(f"{path} is missing: it is the {split} split of Synthetic-Persona-Chat in its publishers' format")
    with open(path, "rb") as file:
        # Decoded line by line, so that a broken byte is reported at its line.
        reader = csv.DictReader((line.decode("utf-8") for line in file), strict=True)
        number = 0
        while True:
            start = reader.line_num + 1
            try:
                row = next(reader, None)
            except (csv.Error, UnicodeDecodeError) as error:
                raise UserError(f"{path}, line {start}: not a row of CSV ({error}); mend or remove it") from error
            if row is None:
                return
            yield number, field(row, COLUMN, f"{path}, line {start}")
            number += 1
