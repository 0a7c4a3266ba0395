"""Extending is one new file: each kind is dropped into a copy, where the tests of what is found run over it, and it works."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from compositional.core.workspace import Workspace
from compositional.data import read_saved
from helpers.checkout import copy_checkout

DATA = '''
"""Notes and their titles: a data set of one's own, on the hub and in files."""

from __future__ import annotations

from compositional.core.files import read_json_lines
from compositional.data import (
    Dataset, Example, Locations, Reading, Source, compositional_sets, load_hub_split, published_set, source_file, text_field
)
from compositional.tasks import find_task

SOURCE = Source(
    title="Notes",
    hub_id="somebody/notes",
    revision="main",
    files={split: f"notes.{split}.jsonl" for split in ("train", "validation", "test")},
    columns="note, title",
    example="We meet at noon and then we eat. → A lunch.",
    licence="CC0",
    split_rule="the publishers'",
    rows={"train": 3, "validation": 2, "test": 2},
)


def datasets(locations: Locations) -> list[Dataset]:
    return compositional_sets(published_set("notes", find_task("summarization"), SOURCE, locations, read_source), locations)


def read_source(locations: Locations, split: str) -> Reading:
    if locations.raw:
        rows = [row for _, row in read_json_lines(source_file(SOURCE, locations, split))]
    else:
        rows = load_hub_split(SOURCE, split)
    texts = [[text_field(row, column, f"{split}, row {n}") for column in ("note", "title")] for n, row in enumerate(rows)]
    return Reading([Example(f"{split}_{n}", *pair) for n, pair in enumerate(texts)])
'''
TASKS = '''
"""A formal tone, and Italian."""

from __future__ import annotations

from compositional.tasks import Task


def tasks() -> list[Task]:
    return [
        Task(
            "tone_adjustment",
            "auxiliary",
            "Rewrite the following text in a formal tone",
            "Its tone is formal.",
            variant="formal",
            continuation="then rewrite it in a formal tone",
            headline_metric="rougeL",
        ),
        Task(
            "translation",
            "auxiliary",
            "Translate the following text to Italian",
            "It is written in Italian.",
            variant="it",
            continuation="then translate it to Italian",
            language="it",
            headline_metric="rougeL",
        ),
    ]
'''
TEXT_MODEL = '''
"""A text model that says what it was asked for before the text."""

from __future__ import annotations

from typing import Any

from compositional.preparation.text_models import TextModelSettings
from compositional.tasks import Task

TASKS = ("translation", "tone_adjustment")
REVISION = "1"


def text_model(task: Task, settings: TextModelSettings) -> Announcer:
    return Announcer(task.variant)


class Announcer:
    batch_size = 10

    def __init__(self, variant: str) -> None:
        self.variant = variant

    def identity(self) -> dict[str, Any]:
        return {"model": "announcer", "variant": self.variant}

    def check(self) -> None:
        pass

    def start(self) -> None:
        pass

    def loaded(self) -> dict[str, Any]:
        return {}

    def stop(self) -> None:
        pass

    def rewrite(self, texts: list[str]) -> list[str]:
        return [f"{self.variant}: {text}" for text in texts]
'''
# Tests that run over whatever strategies, sets, tasks and text models there are; by file, and some by name.
CONTRACTS = {
    "test_contracts": (),
    "test_merge_strategies": (
        "test_a_module_of_one_adapter_alone_and_zero_updates_do_no_harm",
        "test_every_strategy_says_what_it_does_and_where_it_is_from",
    ),
    "test_merge_matrix": (
        "test_a_strategy_that_needs_no_data_has_a_reference",
        "test_references_are_of_strategies",
        "test_a_merge_from_disk_to_disk_needs_no_base_model",
    ),
    "test_data": ("test_there_is_a_prepared_set_for_every_main_set_language_and_tone",),
    "test_sources": (
        "test_missing_files_of_several_sources_are_reported_together",
        "test_sources_on_the_hub_are_one_mistake_each_without_a_network",
    ),
    "test_preparation_command": (
        "test_the_papers_sets_are_made_by_default",
        "test_pockets_sets_are_made_by_a_flag",
        "test_only_takes_names_and_patterns",
    ),
    "test_text_models": ("test_a_text_model_is_found_by_its_name_for_the_tasks_it_does",),
}


@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> Path:
    """A copy of the checkout with a new file of each kind."""
    copy = copy_checkout(tmp_path_factory.mktemp("copy") / "project")
    package = copy / "src" / "compositional"
    page = (copy / "docs" / "adding_a_method.md").read_text(encoding="utf-8")
    (strategy,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    for name, content in {
        "merging/balanced.py": strategy,
        "data/notes.py": DATA,
        "tasks/formal_and_italian.py": TASKS,
        "preparation/text_models/announcer.py": TEXT_MODEL,
    }.items():
        (package / name).write_text(content.lstrip(), encoding="utf-8")
    return copy


def run_in(copy: Path, *words: str) -> str:
    """What a child process says that imports the copy's package."""
    environment = os.environ | {"PYTHONPATH": str(copy / "src"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, *words], cwd=copy, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow(13)
def test_the_contracts_hold_for_files_that_are_dropped_in(copy):
    chosen = []
    for name, tests in CONTRACTS.items():
        (path,) = (copy / "tests").rglob(f"{name}.py")
        chosen += [f"{path}::{test}" for test in tests] or [str(path)]
    said = run_in(copy, "-m", "pytest", "-q", "-rA", "-p", "no:cacheprovider", "--durations=0", *chosen)
    for found in ("[balanced]", "[notes]", "[notes_es]", "[notes_it]", "[dialogsum_formal]", "[translation_it]", "[announcer]"):
        assert f"{found}\n" in said, found
    assert "balanced has no reference" in said


@pytest.mark.slow(6)
def test_a_set_of_ones_own_is_prepared_in_a_language_of_ones_own_by_a_text_model_of_ones_own(copy, tmp_path):
    raw, workspace = tmp_path / "raw", Workspace(tmp_path / "workspace")
    raw.mkdir()
    for split in ("train", "validation", "test"):
        rows = [{"note": f"We meet in room {n} of the {split} house.", "title": f"Room {n}."} for n in range(2)]
        (raw / f"notes.{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    flags = f"--only notes notes_it notes_formal --raw_data_dir {raw} --workspace {workspace.root} --length_models pocket"
    models = "--translator announcer --tone_rewriter announcer"
    run_in(copy, "-m", "compositional.preparation", *flags.split(), *models.split())
    targets = {
        name: [example.reference for example in read_saved(workspace.prepared_data(name), "test")]
        for name in ("notes", "notes_it", "notes_formal")
    }
    assert targets["notes"] == ["Room 0.", "Room 1."]
    assert targets["notes_it"] == [f"it: {title}" for title in targets["notes"]]
    assert targets["notes_formal"] == [f"formal: {title}" for title in targets["notes"]]
