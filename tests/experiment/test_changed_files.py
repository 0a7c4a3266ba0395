"""Files that have changed since they were written: refused in a line, made again from what is whole, or not resumed from."""

from __future__ import annotations

import json
import resource
import shutil
import signal
from pathlib import Path

import numpy
import pytest
import torch

from compositional.adapters.peft_folder import CONFIG_FILE, WEIGHTS_FILE
from compositional.core.errors import UserError, fault_of_machine
from compositional.core.files import folder_in_the_making, hash_of_files
from compositional.core.recorded import read_recorded, write_record
from compositional.core.resumable import complete_rows, partial_of
from compositional.experiment.resume import ADAPTER_RECORD
from compositional.training.trainer import last_whole_checkpoint
from helpers.tiny_runs import COMPOSED, METHODS, TINY_RUN


def flip(path: Path, place: int = -1) -> None:
    """Change the lowest bit of a byte."""
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def replace_in(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.fixture
def sums(workspace, tiny_models) -> str:
    """The command of a finished training with predictions."""
    model = tiny_models["llama"]
    return (
        f"{TINY_RUN}--model_name_or_path {model} --experiment_name sums --dataset pocket_dialogs --stored_model_name sums "
        "--do_train --do_predict "
    )


@pytest.mark.slow(20)
def test_an_adapter_that_has_changed_is_refused_by_the_command_that_made_it_and_by_those_that_read_it(
    sums, run, workspace, tiny_models
):
    run(sums)
    folder = workspace.stored_model("sums")
    content = (folder / WEIGHTS_FILE).read_bytes()
    flip(folder / WEIGHTS_FILE)
    fault = "adapter sums has changed since it was stored"
    with pytest.raises(UserError, match=fault):
        run(sums)
    other = f"{TINY_RUN}--model_name_or_path {tiny_models['llama']} --experiment_name other {COMPOSED}{METHODS['main_lora']}"
    with pytest.raises(UserError, match=fault):
        run(f"{other}--do_predict")
    assert not workspace.output("other").exists()
    (folder / WEIGHTS_FILE).write_bytes(content)
    run(sums)
    replace_in(folder / CONFIG_FILE, '"lora_dropout": 0.0', '"lora_dropout": 0.5')
    with pytest.raises(UserError, match=fault):
        run(sums)


@pytest.mark.slow(20)
def test_predictions_that_have_changed_are_refused_and_not_scored(sums, run, workspace):
    run(sums)
    path = workspace.predictions("sums", "test")
    replace_in(path, '"output": "', '"output": "~')
    for removed in (None, workspace.results("sums")):
        if removed:
            removed.unlink()
        with pytest.raises(UserError, match=r"test.jsonl has changed since it was written \(another SHA-256\)"):
            run(sums)


@pytest.mark.slow(20)
def test_predictions_that_were_removed_are_made_again_whatever_their_bytes_were(sums, run, workspace):
    run(sums)
    path = workspace.predictions("sums", "test")
    settings = path.with_name("settings.json")
    write_record(settings, read_recorded(settings) | {"hashes_of_files": {path.name: "another machine's"}})
    path.unlink()
    run(sums)
    run(sums)
    assert read_recorded(settings)["hashes_of_files"] == {path.name: hash_of_files([path])}


@pytest.mark.slow(20)
def test_scores_that_have_changed_are_made_again_from_the_predictions(sums, run, workspace):
    run(sums)
    path = workspace.scores("sums", "test")
    content = path.read_bytes()
    replace_in(path, '"chrf": 0', '"chrf": 1')
    run(sums)
    assert path.read_bytes() == content


@pytest.mark.slow(20)
@pytest.mark.parametrize("record", ["results", "adapter", "predictions"])
def test_a_record_that_has_changed_is_refused(record, sums, run, workspace):
    run(sums)
    paths = {
        "results": workspace.results("sums"),
        "adapter": workspace.stored_model("sums") / ADAPTER_RECORD,
        "predictions": workspace.predictions_folder("sums") / "settings.json",
    }
    replace_in(paths[record], '"max_new_tokens": 8' if record != "adapter" else '"lora_rank": 4', '"another": 0')
    with pytest.raises(UserError, match=f"{paths[record].name} has changed since it was written"):
        run(sums)


def test_a_records_own_hash_is_no_part_of_it_and_a_record_without_one_is_not_checked(tmp_path):
    path = tmp_path / "record.json"
    write_record(path, {"a": [0.1, "é"], "b": None})
    record = read_recorded(path)
    assert record == {"a": [0.1, "é"], "b": None}
    write_record(path, record | {"c": 1})
    assert read_recorded(path) == record | {"c": 1}
    path.write_text('{"a": 1}')
    assert read_recorded(path) == {"a": 1}


def test_a_row_of_an_unfinished_file_that_has_changed_is_refused_with_its_line(tmp_path):
    path = tmp_path / "rows.jsonl"

    def stopping(ids: list[str]) -> list[dict[str, str]]:
        if ids == ["c"]:
            raise KeyboardInterrupt
        return [{"id": id, "text": f"of {id}"} for id in ids]

    def batches(done: set[str]) -> list[list[str]]:
        return [[id] for id in "abc" if id not in done]

    with pytest.raises(KeyboardInterrupt):
        complete_rows(path, list("abc"), batches, lambda: None, stopping, "rows")
    replace_in(partial_of(path), "of b", "on b")
    with pytest.raises(UserError, match=r"rows.jsonl.partial, line 2: not a row of this file; remove the line"):
        complete_rows(path, list("abc"), batches, lambda: None, stopping, "rows")
    replace_in(partial_of(path), "on b", "of b")
    rows = complete_rows(path, list("abc"), batches, lambda: None, lambda ids: [{"id": id, "text": "z"} for id in ids], "rows")
    assert [row["text"] for row in rows] == ["of a", "of b", "z"]
    assert [json.loads(line) for line in path.read_text().splitlines()] == rows


@pytest.mark.slow(20)
def test_a_damaged_checkpoint_is_not_resumed_from_but_the_one_before_it_is(sums, run, workspace, monkeypatch, caplog):
    from compositional.experiment.adapter import AdapterMaker

    class Stopped(Exception):
        pass

    def stop(*arguments: object) -> None:
        raise Stopped

    run(sums)
    expected = hash_of_files([workspace.stored_model("sums") / WEIGHTS_FILE])
    for folder in (workspace.stored_model("sums"), workspace.output("sums"), workspace.predictions_folder("sums")):
        shutil.rmtree(folder)
    with monkeypatch.context() as patched:
        patched.setattr(AdapterMaker, "_store", stop)
        with pytest.raises(Stopped):
            run(f"{sums}--save_steps 1")
    newest = Path(last_whole_checkpoint(workspace.training("sums")))
    flip(next(newest.glob("*.safetensors")))
    before = Path(last_whole_checkpoint(workspace.training("sums")))
    assert int(before.name.partition("-")[2]) == int(newest.name.partition("-")[2]) - 1
    assert f"{newest} is damaged and is not resumed from" in caplog.text
    run(f"{sums}--save_steps 1")
    assert hash_of_files([workspace.stored_model("sums") / WEIGHTS_FILE]) == expected


def test_a_folder_that_was_moved_aside_by_a_process_that_was_killed_then_comes_back(tmp_path):
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "old").touch()
    folder.rename(tmp_path / ".adapter.replaced")
    with pytest.raises(ValueError, match="interrupted"), folder_in_the_making(folder):
        raise ValueError("interrupted")
    assert [path.name for path in folder.iterdir()] == ["old"]
    with folder_in_the_making(folder) as unfinished:
        (unfinished / "new").touch()
    assert [path.name for path in folder.iterdir()] == ["new"]
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


@pytest.mark.parametrize("limit", [100, 5_000, 40_500])
@pytest.mark.parametrize("write", [lambda path: numpy.zeros(9_999).tofile(path), lambda path: torch.save(torch.zeros(9_999), path)])
def test_an_array_that_could_be_written_in_part_only_is_an_error_of_the_machine(write, limit, tmp_path):
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        with pytest.raises((OSError, RuntimeError)) as raised:
            write(tmp_path / "array")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert "the same command goes on" in fault_of_machine(raised.value)
