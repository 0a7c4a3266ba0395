"""DialogSum: English dialogues and their summaries (Chen et al. 2021), CC BY-NC-SA 4.0.

Hub: knkarthick/dialogsum, columns id, dialogue, summary, topic; splits 12,460 / 500 / 1,500 (each of 500 test dialogues
stands three times, with a summary each). Publishers' files: dialogsum.{train,dev,test}.jsonl with fname, dialogue,
summary (summary1, summary2, summary3 in the test file), topic. Example: "#Person1#: Hello, how are you doing today? ..." →
"#Person2# has trouble breathing. The doctor asks #Person2# about it and will send #Person2# to a pulmonary specialist."
"""

from __future__ import annotations

from functools import partial

from src.data import Dataset, Example, Locations, field
from src.errors import UserError
from src.files import read_json_lines
from src.tasks import find_task

HUB_ID = "knkarthick/dialogsum"
FILES = {"train": "dialogsum.train.jsonl", "validation": "dialogsum.dev.jsonl", "test": "dialogsum.test.jsonl"}


def datasets(locations: Locations) -> list[Dataset]:
    return [Dataset("dialogsum", (find_task("summarization"),), "dialogsum", partial(_read, locations))]


def _read(locations: Locations, split: str) -> list[Example]:
    return _read_file(locations, split) if locations.raw else _read_hub(split)


def _read_hub(split: str) -> list[Example]:
    from src.hub import load_hub_split

    rows = load_hub_split(HUB_ID, split)
    place = f"{HUB_ID}, {split}, row"
    return [
        Example(f"{split}_{number}", field(row, "dialogue", f"{place} {number}"), field(row, "summary", f"{place} {number}"))
        for number, row in enumerate(rows)
    ]


def _read_file(locations: Locations, split: str) -> list[Example]:
    path = locations.raw / FILES[split]
    if not path.is_file():
        raise UserError(f"{path} is missing: it is the {split} split of DialogSum in its publishers' format")
    examples = []
    for number, row in read_json_lines(path):
        place = f"{path}, line {number}"
        dialogue = field(row, "dialogue", place)
        columns = [column for column in ("summary1", "summary2", "summary3") if column in row] or ["summary"]
        name = str(row.get("fname", f"{split}_{number}"))
        for column in columns:
            suffix = column.removeprefix("summary")
            examples.append(Example(f"{name}_{suffix}" if suffix else name, dialogue, field(row, column, place)))
    return examples
