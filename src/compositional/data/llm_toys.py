"""llm-toys: the training data of the tone rewriter. Each sentence has a casual, professional, witty and paraphrased version.

The publishers generated most of it with gpt-3.5-turbo. It is in their repository, github.com/kuutsav/llm-toys, not on the hub.
"""

from __future__ import annotations

import hashlib
from functools import partial

from compositional.core.errors import UserError
from compositional.core.files import read_json
from compositional.data import Dataset, Example, Locations, Reading, Source, published_set, source_file, text_field
from compositional.tasks import Task, all_tasks

NAME = "llm_toys"
_FILE = "paraphrase_tone.json"
TONES = ("casual", "professional", "witty", "paraphrase")
SOURCE = Source(
    title="llm-toys",
    files=dict.fromkeys(("train", "validation", "test"), _FILE),
    columns=f"original, {', '.join(TONES)}",
    example="I will investigate the discrepancy in your policy statement and provide a resolution. → I'll look into the "
    "discrepancy in your policy statement and resolve it for you.",
    licence="Apache 2.0",
    split_rule="by a hash of the original: 80 % train, 10 % validation, 10 % test",
    rows={"train": 684, "validation": 79, "test": 97},
)


def datasets(locations: Locations) -> list[Dataset]:
    """A set for each tone in the file."""
    tones = [task for task in all_tasks() if task.name == "tone_adjustment" and task.variant in TONES]
    return [published_set(f"{NAME}_{task.variant}", task, SOURCE, locations, partial(read_source, task)) for task in tones]


def split_of(text: str) -> str:
    """The split of an original sentence. All its occurrences in the file belong to the same split."""
    bucket = hashlib.sha256(text.encode()).digest()[0] % 10
    return {8: "validation", 9: "test"}.get(bucket, "train")


def read_source(task: Task, locations: Locations, split: str) -> Reading:
    """Sentences of a split and their version in the task's tone; raises UserError for missing or invalid data."""
    if not locations.raw:
        raise UserError(f"{NAME} is on no hub: name the folder of {_FILE} with --raw_data_dir")
    path = source_file(SOURCE, locations, split)
    rows = read_json(path)
    if not isinstance(rows, list):
        raise UserError(f"{path}: expected a list of objects, found {type(rows).__name__}")
    examples = []
    for number, row in enumerate(rows):
        place = f"{path}, entry {number + 1}"
        if not isinstance(row, dict):
            raise UserError(f"{place}: expected an object, found {type(row).__name__}")
        original, toned = text_field(row, "original", place), text_field(row, task.variant, place)
        if split_of(original) == split:
            examples.append(Example(f"{NAME}_{number}", original, toned))
    return Reading(examples)
