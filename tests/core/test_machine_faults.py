"""Full disks, missing locks, closed pipes, folders that can't be written to: one line each, and nothing half-written counts."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from compositional.core.errors import UserError, fault_of_machine
from compositional.core.files import folder_in_the_making, remove, write_text
from compositional.core.logs import log_to_file
from compositional.core.processes import exit_code_of
from compositional.core.workspace import Workspace
from helpers import PROJECT
from helpers.judging import RULE, SIX, SIX_VERDICTS, store_predictions, verdicts
from helpers.planning import ONE, mistakes_in

FULL = "No space left on device; the same command goes on once there is space"


def full_disk(name: str | None = None) -> OSError:
    return OSError(errno.ENOSPC, "No space left on device", name)


def followed_by(cause: Exception, error: Exception) -> Exception:
    error.__context__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (full_disk("/w/output/a"), f"/w/output/a: {FULL}"),
        (PermissionError(errno.EACCES, "Permission denied", b"/w"), "/w: Permission denied"),
        (SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"), FULL),
        (Exception("File too large (os error 27)"), "File too large; the same command goes on with a higher limit of file sizes"),
        (OSError("Error writing bytes to file. Detail: [errno 28] No space left on device"), FULL),
        (followed_by(full_disk(), RuntimeError("unexpected pos 64 vs 0")), FULL),
    ],
)
def test_an_error_of_the_machine_is_one_line_whichever_library_raises_it(error, expected, capsys):
    def command() -> None:
        raise error

    assert exit_code_of(command) == 2
    assert capsys.readouterr().err.startswith(f"error: {expected}")


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError(errno.ENOENT, "No such file or directory", "x"),
        KeyError("x"),
        followed_by(PermissionError(errno.EACCES, "Permission denied"), KeyError("x")),
        BrokenPipeError(errno.EPIPE, "Broken pipe"),
    ],
)
def test_any_other_error_is_a_fault_of_ours_with_a_traceback(error):
    def command() -> None:
        raise error

    assert fault_of_machine(error) is None
    with pytest.raises(type(error)):
        exit_code_of(command)


def test_a_mistake_is_one_line_even_where_it_quotes_a_line_break(capsys):
    def command() -> None:
        raise UserError("--experiment_name a\nb: not good", "another")

    assert exit_code_of(command) == 2
    assert capsys.readouterr().err == "error: --experiment_name a\\nb: not good\nerror: another\n"


@pytest.mark.slow
def test_a_reader_that_closes_the_pipe_ends_a_command_silently():
    words = [sys.executable, str(PROJECT / "run_sweep.py"), "--dry_run"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline().startswith("[1/")
        process.stdout.close()
        assert process.wait(timeout=60) == 128 + 13
        assert process.stderr.read() == ""


@pytest.mark.slow
def test_an_output_on_a_full_disk_is_one_line():
    with open("/dev/full", "w") as full:
        words = [sys.executable, str(PROJECT / "run_sweep.py"), "--dry_run"]
        done = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, f"error: {FULL}\n")


@pytest.mark.slow
@pytest.mark.parametrize("limit", [0, 100, 400])
def test_a_command_that_can_not_write_ends_with_one_line_and_goes_on_when_it_can(limit, workspace, judge):
    store_predictions(workspace, "e", SIX)
    flags = f"{RULE}--experiment_name e --batch_size 1"
    words = [sys.executable, str(PROJECT / "llm_judge_eval.py"), *shlex.split(flags), "--workspace", str(workspace.root)]
    done = subprocess.run(
        words,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert ("File too large" if limit else "No usable temporary directory") in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert not workspace.judgement("e", "pocket").exists()
    assert not list(workspace.root.rglob("*.unfinished"))
    judge(flags)
    assert [row["verdict"] for row in verdicts(workspace, "e")] == SIX_VERDICTS


def test_a_file_that_can_not_be_written_leaves_nothing_behind_and_is_named(tmp_path, monkeypatch):
    write_text(tmp_path / "a", "before")

    def full(descriptor: int) -> None:
        raise full_disk()

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as caught:
        write_text(tmp_path / "a", "after")
    assert fault_of_machine(caught.value) == f"{tmp_path / 'a'}: {FULL}"
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a", "before")]


def test_a_log_that_can_not_be_written_does_not_hide_why_a_run_failed(tmp_path, monkeypatch):
    (tmp_path / "run.log").symlink_to("/dev/full")
    with pytest.raises(KeyError), log_to_file(tmp_path):
        raise KeyError("x")


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_locks_is_one_line(number, workspace, monkeypatch):
    def flock(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(UserError) as caught, workspace.locked(experiment="e"):
        pass
    (line,) = caught.value.mistakes
    assert line.startswith(f"--workspace {workspace.root}: no lock can be made in ")
    assert line.endswith(f"({os.strerror(number)}); use a file system with locks (flock)")


def test_the_locks_of_long_names_differ(workspace):
    first, second = (f"{'n' * 200}.{'j' * 150}{number}" for number in (1, 2))
    with (
        workspace.locked(judgement=first),
        workspace.locked(judgement=second),
        pytest.raises(UserError, match="in use by another run"),
        workspace.locked(judgement=first),
    ):
        pass


@pytest.mark.parametrize("umask", [0o022, 0o002, 0o077])
def test_tensors_get_the_permissions_of_the_users_umask(umask, tmp_path):
    before = os.umask(umask)
    try:
        with folder_in_the_making(tmp_path / "adapter") as folder:
            save_file({"a": torch.zeros(2)}, folder / "a.safetensors")
            (folder / "inner").mkdir()
            save_file({"a": torch.zeros(2)}, folder / "inner" / "b.safetensors")
            write_text(folder / "c.json", "{}")
    finally:
        os.umask(before)
    files = [path for path in (tmp_path / "adapter").rglob("*") if path.is_file()]
    assert {path.stat().st_mode & 0o777 for path in files} == {0o666 & ~umask}
    assert len(files) == 3


def test_what_a_link_leads_to_is_never_deleted(tmp_path):
    target, link = tmp_path / "target", tmp_path / "link"
    write_text(target / "a", "kept")
    link.symlink_to(target)
    with folder_in_the_making(link) as folder:
        write_text(folder / "a", "new")
    assert (link / "a").read_text() == "new"
    assert not link.is_symlink()
    remove(link)
    link.symlink_to(target)
    remove(link)
    remove(link)
    assert (target / "a").read_text() == "kept"
    assert [path.name for path in tmp_path.iterdir()] == ["target"]


def unwritable(root: Path, what: str) -> str:
    """A workspace whose folder of predictions can't be made; returns what is wrong."""
    path = root / "predictions"
    root.mkdir()
    if what == "file":
        path.touch()
        return f"{path} is not a folder"
    path.symlink_to(root / "nowhere")
    return f"{path} is a link to nothing"


@pytest.mark.parametrize("what", ["file", "link"])
def test_a_folder_that_can_not_be_made_is_a_mistake_before_anything_is_written(what, run, workspace, tiny_models):
    fault = unwritable(workspace.root, what)
    with pytest.raises(UserError) as caught:
        run(f"{ONE}--zero_shot --do_predict --model_name_or_path {tiny_models['llama']} --max_test_examples 2")
    assert list(caught.value.mistakes) == [f"--workspace {workspace.root}: {fault}"]
    assert [path.name for path in workspace.root.iterdir()] == ["predictions"]


def test_a_folder_without_permission_to_write_is_told_apart(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: str(path) != str(tmp_path))
    with pytest.raises(UserError) as caught:
        Workspace(tmp_path).check_writable(tmp_path / "predictions" / "e")
    assert list(caught.value.mistakes) == [f"--workspace {tmp_path}: {tmp_path} can't be written to"]


def test_a_file_system_without_room_for_what_will_be_written_is_a_mistake_before_anything_is_written(
    run, workspace, tiny_models, monkeypatch
):
    words = f"{ONE}--stored_model_name one --do_train --lora_rank 1000000 --model_name_or_path {tiny_models['llama']} "
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**12, 0, 23 * 10**9))
    with pytest.raises(UserError) as caught:
        run(words)
    # Two layers: q and o 64 + 64, k and v 32 + 64, gate, up and down 48 + 64 each; 38 bytes a parameter.
    needed = 10**6 * 2 * (2 * 128 + 2 * 96 + 3 * 112) * 38 / 1e9
    assert list(caught.value.mistakes) == [
        f"--workspace {workspace.root}: about {needed:.1f} GB will be written, and 23.0 GB are free"
    ]
    assert not workspace.root.exists() or not list(workspace.root.iterdir())


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("x" * 201, "a name has at most 200 bytes, this one has 201"),
        ("é" * 101, "a name has at most 200 bytes, this one has 202"),
        ("a\tb", "a name has no characters that can't be printed, this one is 'a\\tb'"),
    ],
)
def test_a_name_that_is_no_name_of_a_file_is_a_mistake(name, expected, adapters, mistakes):
    assert mistakes_in(f"{ONE}--zero_shot --do_predict --stored_model_name '{name}'", adapters) == [
        f"--stored_model_name {name}: {expected}"
    ]
    assert mistakes(f"{RULE}--experiment_name '{name}'") == [f"--experiment_name {name}: {expected}"]


def test_words_that_are_not_utf_8_are_mistakes(adapters):
    undecodable = os.fsdecode(b"caf\xe9")
    for flags in (f"--experiment_name {undecodable}", f"{ONE}--raw_data_dir /tmp/{undecodable}"):
        (line,) = mistakes_in(f"--dataset pocket_dialogs {flags}", adapters)
        assert line.endswith("caf\\xe9' is not UTF-8: records could not name it")


@pytest.mark.slow
def test_scoring_needs_no_cache(tmp_path):
    code = "from compositional.scoring.score import scores_per_example as s; print(s(['a b'], ['a b'])['rougeL_paper'])"
    variables = dict.fromkeys(("HF_HOME", "HF_METRICS_CACHE", "HF_MODULES_CACHE", "XDG_CACHE_HOME"), "/proc/none")
    environment = os.environ | variables | {"PYTHONPATH": str(PROJECT / "src")}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("[1.0]\n", 0), done.stderr
