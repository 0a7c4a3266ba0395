"""Sound Natural: requests to an assistant, and how the assistant would phrase them. The latter are rewritten in a tone.

The input is the rephrased sentence, capitalised; the target is its version in a tone. Both follow the paper's later code base.
"""

from __future__ import annotations

from collections.abc import Iterator

from compositional.core.files import read_delimited
from compositional.data import (
    Dataset,
    Example,
    Locations,
    Reading,
    Source,
    load_hub_split,
    papers_benchmark,
    rewritten_set,
    source_file,
    text_field,
)
from compositional.tasks import all_tasks

NAME = "content_rephrasing"
SOURCE = Source(
    title="Sound Natural",
    hub_id="facebook/content_rephrasing",
    revision="80e34a787a6c757d2e9cad051ac26c3353b70225",
    files={"train": "train.tsv", "validation": "val.tsv", "test": "test.tsv"},
    columns="Rephrased Content, and others that are not read",
    example="ask my wife if she can pick up the kids is rephrased as: can you pick up the kids",
    licence="CC BY-SA 4.0",
    split_rule="the publishers'",
    rows={"train": 2250, "validation": 321, "test": 642},
)
COLUMN = "Rephrased Content"


def datasets(locations: Locations) -> list[Dataset]:
    """A set per tone. They must be prepared."""
    tones = [task for task in all_tasks() if task.name == "tone_adjustment"]
    names = [f"{NAME}_{task.variant}" for task in tones]
    return [
        rewritten_set(name, (task,), name, SOURCE, locations, read_source, papers_benchmark(task))
        for name, task in zip(names, tones, strict=True)
    ]


def read_source(locations: Locations, split: str) -> Reading:
    """Examples with equal input and reference. The preparation then rewrites the references in a tone."""
    texts = [_capitalised(text.strip()) for text in _texts(locations, split)]
    return Reading([Example(f"{split}_{number}", text, text) for number, text in enumerate(texts)])


def _capitalised(text: str) -> str:
    """The text with a capital first letter, if that letter has a capital of one character (ß has none)."""
    first = text[0].upper()
    return (first if len(first) == 1 else text[0]) + text[1:]


def _texts(locations: Locations, split: str) -> Iterator[str]:
    if not locations.raw:
        for number, row in enumerate(load_hub_split(SOURCE, split)):
            yield text_field(row, COLUMN, f"{SOURCE.hub_id}, {split}, row {number}")
        return
    path = source_file(SOURCE, locations, split)
    for line, row in read_delimited(path, delimiter="\t"):
        yield text_field(row, COLUMN, f"{path}, line {line}")
