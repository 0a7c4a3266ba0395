"""Synthetic-Persona-Chat: generated conversations between two people (Jandaghi et al. 2023).

Each pair of consecutive lines by different users makes one example, turn → next turn, without the prefix "User N: ".
Validation and test are samples, as in the paper's later code base.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from io import StringIO
from itertools import pairwise
from pathlib import Path
from random import Random

from compositional.core.files import read_delimited, write_text
from compositional.data import (
    Dataset,
    Example,
    Locations,
    Reading,
    Source,
    compositional_sets,
    load_hub_split,
    published_set,
    source_file,
    split_off,
    text_field,
)
from compositional.tasks import find_task

NAME = "synthetic_persona_chat"
TASK = "reply"
SOURCE = Source(
    title="Synthetic-Persona-Chat",
    hub_id="google/Synthetic-Persona-Chat",
    revision="main",
    files={
        "train": "Synthetic-Persona-Chat_train.csv",
        "validation": "Synthetic-Persona-Chat_valid.csv",
        "test": "Synthetic-Persona-Chat_test.csv",
    },
    columns="user 1 personas, user 2 personas, Best Generated Conversation",
    example="What is your favorite thing to do? → I like to move objects with my mind.",
    licence="CC BY 4.0",
    split_rule="the publishers'; of validation and test a seeded sample of 1,000 pairs each",
    rows={"train": 8938, "validation": 1000, "test": 968},
)
COLUMN = "Best Generated Conversation"
SAMPLED = {"validation": 1000, "test": 1000}
_TURN = re.compile(r"^(User \d+):\s*(.*?)\s*$")


def datasets(locations: Locations) -> list[Dataset]:
    """The reply set and its compositional ones."""
    return compositional_sets(published_set(NAME, find_task(TASK), SOURCE, locations, read_source, benchmark="paper"), locations)


def adjacent_turns(conversation: str) -> Iterator[tuple[str, str]]:
    """Pairs of consecutive lines by different users, without "User N: ". A line that is not a turn breaks a pair."""
    turns = [_TURN.match(line) for line in _lines(conversation)]
    for turn, next_turn in pairwise(turns):
        if turn and next_turn and turn[1] != next_turn[1] and turn[2] and next_turn[2]:
            yield turn[2], next_turn[2]


def _lines(conversation: str) -> list[str]:
    return conversation.replace("\r\n", "\n").rstrip("\n").split("\n")


def read_source(locations: Locations, split: str) -> Reading:
    """Pairs of turns of a split, and the number left out; raises UserError for missing or invalid data."""
    lines, examples = 0, []
    for row, conversation in _conversations(locations, split):
        lines += len(_lines(conversation)) - 1
        pairs = enumerate(adjacent_turns(conversation))
        examples += [Example(f"{split}_{row}_{number}", text, reply) for number, (text, reply) in pairs]
    left_out = {"pairs of lines that are no turns of two users": lines - len(examples)}
    sample_size = SAMPLED.get(split)
    if sample_size and len(examples) > sample_size:
        left_out["pairs of turns that were not sampled"] = len(examples) - sample_size
        chosen = sorted(Random(f"{NAME}/{split}").sample(range(len(examples)), sample_size))
        examples = [examples[index] for index in chosen]
    return Reading(examples, {reason: count for reason, count in left_out.items() if count})


def _conversations(locations: Locations, split: str) -> Iterator[tuple[int, str]]:
    if not locations.raw:
        for number, row in enumerate(load_hub_split(SOURCE, split)):
            yield number, text_field(row, COLUMN, f"{SOURCE.hub_id}, {split}, row {number}")
        return
    path = source_file(SOURCE, locations, split)
    for number, (line, row) in enumerate(read_delimited(path)):
        yield number, text_field(row, COLUMN, f"{path}, line {line}")


def split_conversations(path: Path, folder: Path, test: int = 12, validation: int = 4) -> Path:
    """Split one of the publishers' files into files of all three splits, by a seeded choice of conversations.

    Returns the folder, which `--raw_data_dir` may name. It is the same for the same file. Raises UserError for a file with too
    few conversations.
    """
    rows = [row for _, row in read_delimited(path)]
    for split, chosen in split_off(rows, f"{NAME}/conversations", path, test, validation).items():
        text = StringIO()
        # Python 3.11 would write a carriage return without the quotes that it needs.
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n", quoting=csv.QUOTE_ALL)
        writer.writeheader()
        writer.writerows(chosen)
        write_text(folder / SOURCE.files[split], text.getvalue())
    return folder
