"""The preparation command in this process, what it writes, and what its --dry_run shows."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from compositional.core.errors import UserError
from compositional.core.files import read_json
from compositional.core.workspace import Workspace
from compositional.preparation.__main__ import run

SETS = ("pocket_dialogs", "pocket_sentences_witty", "pocket_dialogs_es")  # in the order in which they are made
FEW = ("--only", *SETS, "--max_train_examples", "50")
WITTY = ("--only", "pocket_sentences_witty", "--max_train_examples", "50")
SIZES = {"train": 50, "validation": 250, "test": 250}


def prepare(workspace: Workspace, *flags: str) -> None:
    run([*flags, "--workspace", str(workspace.root)])


def said_by(workspace: Workspace, caplog: pytest.LogCaptureFixture, *flags: str) -> list[str]:
    """What the command says while it runs."""
    caplog.clear()
    with caplog.at_level(logging.INFO, "compositional"):
        prepare(workspace, *flags)
    return caplog.messages


def mistakes_of(workspace: Workspace, *flags: str) -> list[str]:
    """The mistakes of a call, which writes nothing."""
    before = files_in(workspace.root)
    with pytest.raises(UserError) as caught:
        prepare(workspace, *flags)
    assert files_in(workspace.root) == before
    return list(caught.value.mistakes)


def files_in(folder: Path) -> dict[str, int]:
    """When a folder, and the files and folders in it, were last written."""
    paths = [folder, *folder.rglob("*")] if folder.exists() else []
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in paths}


def record_of(workspace: Workspace, name: str) -> dict[str, Any]:
    return read_json(workspace.prepared_data(name) / "preparation.json")


def cells_of(markdown: str) -> list[list[str]]:
    """The cells of the tables on a page, row by row."""
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in markdown.splitlines() if line.startswith("|")]


def shown_by_dry_run(workspace: Workspace, capsys: pytest.CaptureFixture[str], *flags: str) -> dict[str, list[str]]:
    """What --dry_run shows, by set; it writes nothing."""
    before = files_in(workspace.root)
    capsys.readouterr()
    prepare(workspace, "--dry_run", *flags)
    assert files_in(workspace.root) == before
    header, _, *rows = cells_of(capsys.readouterr().out)
    sizes = ["train", "validation", "test", "texts to rewrite", "their characters"]
    assert header == ["set", "state", "made from", "targets by", *sizes]
    return {name: cells for name, *cells in rows}
