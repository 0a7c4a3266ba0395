"""Sets that were made beforehand and saved below `data/`: the compositional ones and the auxiliary tasks' real sets.

A set is a folder that `datasets.DatasetDict.save_to_disk` wrote: splits train, validation and test, columns id, input and target.
Its name says what it is: <main set>_<language or tone> (dialogsum_es), tedtalks_<language>, content_rephrasing_<tone>.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from src.data import Dataset, Example, Locations, field
from src.errors import UserError, first_line
from src.tasks import all_tasks, find_task

_MAIN_SETS = {"dialogsum": "summarization", "synthetic_persona_chat": "reply"}
_AUXILIARY_SETS = {"translation": "tedtalks", "tone_adjustment": "content_rephrasing"}


def datasets(locations: Locations) -> list[Dataset]:
    found = []
    for task in all_tasks():
        if task.role != "auxiliary":
            continue
        for source, main in _MAIN_SETS.items():
            name = f"{source}_{task.variant}"
            found.append(Dataset(name, (find_task(main), task), source, partial(_read, locations.prepared / name)))
        name = f"{_AUXILIARY_SETS[task.name]}_{task.variant}"
        found.append(Dataset(name, (task,), name, partial(_read, locations.prepared / name)))
    return found


def _read(folder: Path, split: str) -> list[Example]:
    from datasets import load_from_disk

    if not (folder / "dataset_dict.json").is_file():
        raise UserError(f"{folder} is not a saved data set: docs/data.md says what is expected there")
    try:
        splits = load_from_disk(str(folder))
    except (OSError, ValueError) as error:
        raise UserError(f"{folder} is damaged: {first_line(error)}; make it again") from error
    if split not in splits:
        raise UserError(f"{folder} has no {split} split; it has {', '.join(splits)}")
    return [
        Example(
            str(row.get("id", f"{split}_{number}")),
            field(row, "input", f"{folder}, {split}, row {number}"),
            field(row, "target", f"{folder}, {split}, row {number}"),
        )
        for number, row in enumerate(splits[split])
    ]
