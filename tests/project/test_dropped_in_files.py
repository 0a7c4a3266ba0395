"""Extending is one new file: those of the recipes are dropped into a copy, where the tests of what is found run over them."""

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
from helpers.recipes import files_of_recipes

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
    (package / "merging" / "balanced.py").write_text(strategy, encoding="utf-8")
    recipes = files_of_recipes()
    assert {Path(name).parent.name for name in recipes} == {"data", "tasks", "text_models"}
    for name, content in recipes.items():
        (copy / name).write_text(content, encoding="utf-8")
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
