"""The preparation command: mistakes, which are a line each, and after which what is there is as it was."""

from __future__ import annotations

import shutil

import pytest

from compositional.core.errors import UserError
from compositional.core.workspace import Workspace
from compositional.preparation.text_models.pocket import PocketGrammar
from helpers.preparing import FEW, WITTY, mistakes_of, prepare, said_by


def test_an_unknown_set_proposes_the_nearest(workspace):
    first, second = mistakes_of(workspace, "--only", "dialogsum_ess", "pocket_*", "nothing_*")
    assert first.startswith("--only dialogsum_ess: there is no such set: did you mean ")
    assert "dialogsum_es" in first
    assert second.startswith("--only nothing_*: there is no such set")
    assert mistakes_of(workspace, "--pocket", "--only", "dialogsum")[0].startswith("--only dialogsum: ")


def test_mistakes_are_reported_together(workspace, tmp_path):
    flags = "--only dialogsumm --drop copys --max_train_examples 0 --batch_size -1 --overwright --translator marain"
    found = mistakes_of(workspace, *flags.split(), "--only", "dialogsum_es", "--raw_data_dir", str(tmp_path / "none"))
    beginnings = [
        "unknown flag --overwright: did you mean --overwrite",
        "--max_train_examples 0: must be at least 1",
        "--batch_size -1: must be at least 1",
        "--drop copys: there is no such finding: did you mean copy",
        "--translator marain: there is no such text model: did you mean marian",
        f"--raw_data_dir {tmp_path / 'none'}: there is no such folder",
        "--only dialogsumm: there is no such set: did you mean dialogsum",
    ]
    assert len(found) == len(beginnings), found
    assert all(mistake.startswith(beginning) for mistake, beginning in zip(found, beginnings, strict=True)), found


def test_paths_that_are_no_folders_are_mistakes(workspace, tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    for name in (file, file / "below"):
        assert mistakes_of(Workspace(name), "--pocket") == [f"--workspace {name}: {file} is not a folder"]
    workspace.root.mkdir()
    (workspace.root / "data").write_text("")
    assert mistakes_of(workspace, "--pocket") == [f"--workspace {workspace.root}: {workspace.root / 'data'} is not a folder"]


def test_a_damaged_record_or_lengths_are_made_anew_and_damaged_texts_are_named(copied, caplog):
    folder, rows = (
        copied.prepared_data("pocket_sentences_witty"),
        copied.prepared_data(".rewritten") / "pocket_sentences_witty.jsonl",
    )
    for content in ("{bad", "[]", "{}"):
        (folder / "preparation.json").write_text(content)
        assert "1 of 1: pocket_sentences_witty (missing)" in said_by(copied, caplog, *WITTY)
    rows.write_text(rows.read_text(encoding="utf-8").replace('"target"', '"tarket"', 1), encoding="utf-8")
    (folder / "preparation.json").unlink()
    shutil.rmtree(folder)
    with pytest.raises(UserError, match="line 1: expected id, source and target"):
        prepare(copied, *WITTY)
    rows.with_suffix(".settings.json").unlink()
    with pytest.raises(UserError, match=r"has rows, and .*, which says what made them, is missing"):
        prepare(copied, *WITTY)


@pytest.mark.parametrize(
    ("name", "state"),
    [
        ("train/dataset_info.json", "damaged: what datasets says of them"),
        ("dataset_dict.json", "damaged: what datasets says of them"),
        ("validation/data-00000-of-00001.arrow", "damaged: validation"),
    ],
)
def test_a_set_that_is_damaged_is_made_anew(name, state, copied, caplog):
    path = copied.prepared_data("pocket_sentences_witty") / name
    before = path.read_bytes()
    path.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
    assert f"1 of 1: pocket_sentences_witty ({state})" in said_by(copied, caplog, *WITTY)
    assert path.read_bytes() == before
    path.unlink()
    prepare(copied, *WITTY)
    assert path.read_bytes() == before


def test_a_folder_that_somebody_else_made_is_left_alone(workspace):
    folder = workspace.prepared_data("pocket_replies")
    folder.mkdir(parents=True)
    (folder / "mine.txt").write_text("mine")
    flags = ("--only", "pocket_replies", "--max_train_examples", "5")
    assert mistakes_of(workspace, *flags) == [f"{folder} exists and was not made by the preparation: move it, or --overwrite it"]
    prepare(workspace, *flags, "--overwrite")
    assert not (folder / "mine.txt").exists()


def test_an_interrupted_overwrite_goes_on_without_it(copied, monkeypatch, caplog):
    rewrite = PocketGrammar.rewrite
    monkeypatch.setattr(PocketGrammar, "rewrite", lambda self, texts: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        prepare(copied, *FEW, "--overwrite")
    monkeypatch.setattr(PocketGrammar, "rewrite", rewrite)
    made = [line for line in said_by(copied, caplog, *FEW) if " of " in line and "(missing)" in line]
    assert len(made) == 2  # the third needs no text model and was made before


def test_a_length_model_that_the_user_names_must_be_there(workspace):
    (mistake,) = mistakes_of(workspace, *WITTY, "--length_models", "/nowhere/model")
    assert mistake.startswith("--length_models /nowhere/model: ")


@pytest.mark.parametrize("flags", ["--only pocket_dialogss", "--drop nothing", "--batch_size 0", "--dry_rum", "--batch_size many"])
def test_after_a_mistake_what_is_made_is_as_it_was(flags, copied):
    assert len(mistakes_of(copied, *FEW, *flags.split())) == 1


@pytest.mark.parametrize("name", ["pocket_dialogs", "pocket_dialogs/raw", "link"])
def test_a_folder_that_is_read_is_never_replaced(name, copied, tmp_path):
    folder = copied.prepared_data("pocket_dialogs")
    (folder / "raw").mkdir()
    (copied.prepared_data("link")).symlink_to(folder)
    read = copied.prepared_data(name)
    expected = f"--raw_data_dir {read} lies in {folder}, which this command replaces: move it"
    assert mistakes_of(copied, *FEW, "--overwrite", "--raw_data_dir", str(read)) == [expected]


def test_a_file_of_flags_is_never_replaced(copied):
    folder = copied.prepared_data("pocket_dialogs")
    flags = folder / "flags.txt"
    flags.write_text("--max_train_examples 7")
    assert mistakes_of(copied, *WITTY, "--only", "pocket_dialogs", f"@{flags}") == [
        f"@{flags} lies in {folder}, which this command replaces: move it"
    ]
