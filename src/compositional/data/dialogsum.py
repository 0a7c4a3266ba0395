"""DialogSum: English dialogues and their summaries (Chen et al. 2021)."""

from __future__ import annotations

import json
from pathlib import Path

from compositional.core.files import read_json_lines, write_text
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

NAME = "dialogsum"
TASK = "summarization"
SOURCE = Source(
    title="DialogSum",
    hub_id="knkarthick/dialogsum",
    revision="main",
    files={"train": "dialogsum.train.jsonl", "validation": "dialogsum.dev.jsonl", "test": "dialogsum.test.jsonl"},
    columns="fname (on the hub id), dialogue, summary (in the test file summary1, summary2, summary3), topic",
    example="#Person1#: Hello, how are you doing today? #Person2#: I ' Ve been having trouble breathing lately. ... → "
    "#Person2# has trouble breathing. The doctor asks #Person2# about it and will send #Person2# to a pulmonary specialist.",
    licence="CC BY-NC-SA 4.0",
    split_rule="the publishers'; a test dialogue makes an example for each of its three summaries",
    rows={"train": 12460, "validation": 500, "test": 1500},
)


def datasets(locations: Locations) -> list[Dataset]:
    """The summarization set and its compositional ones."""
    return compositional_sets(published_set(NAME, find_task(TASK), SOURCE, locations, read_source, benchmark="paper"), locations)


def read_source(locations: Locations, split: str) -> Reading:
    """Dialogues and summaries of a split; raises UserError for missing or invalid data."""
    return Reading(_read_file(locations, split) if locations.raw else _read_hub(split))


def _read_hub(split: str) -> list[Example]:
    place = f"{SOURCE.hub_id}, {split}, row"
    return [
        Example(f"{split}_{number}", *(text_field(row, column, f"{place} {number}") for column in ("dialogue", "summary")))
        for number, row in enumerate(load_hub_split(SOURCE, split))
    ]


def _read_file(locations: Locations, split: str) -> list[Example]:
    path = source_file(SOURCE, locations, split)
    examples = []
    for number, row in read_json_lines(path):
        place = f"{path}, line {number}"
        dialogue = text_field(row, "dialogue", place)
        columns = [column for column in ("summary1", "summary2", "summary3") if column in row] or ["summary"]
        name = text_field({"fname": str(row.get("fname", f"{split}_{number}"))}, "fname", place, may_be_blank=True)
        for column in columns:
            suffix = column.removeprefix("summary")
            examples.append(Example(f"{name}_{suffix}" if suffix else name, dialogue, text_field(row, column, place)))
    return examples


def split_dialogues(path: Path, folder: Path, test: int = 100, validation: int = 20) -> Path:
    """Split one of the publishers' files into files of all three splits, by a seeded choice of dialogues.

    Returns the folder, which `--raw_data_dir` may name. It is the same for the same file. Raises UserError for a file with too
    few dialogues.
    """
    rows = [row for _, row in read_json_lines(path)]
    for split, chosen in split_off(rows, f"{NAME}/dialogues", path, test, validation).items():
        write_text(folder / SOURCE.files[split], "".join(f"{json.dumps(row)}\n" for row in chosen))
    return folder
