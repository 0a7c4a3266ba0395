"""An interrupted preparation goes on with the same command and ends in the same files; what is made is not made again."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import helpers.text_models as tiny
from compositional.core.errors import UserError
from compositional.core.processes import exit_code_of
from compositional.core.resumable import partial_of
from compositional.pocket.examples import draw_examples
from compositional.pocket.sentences import render_all
from compositional.preparation.__main__ import run
from compositional.preparation.text_models import marian
from compositional.preparation.text_models.llm_toys import ToneRewriter
from compositional.preparation.text_models.marian import MarianTranslator
from helpers import PROJECT
from helpers.planning import with_ctrl_c

pytestmark = pytest.mark.usefixtures("one_thread")
EXAMPLES = {"train": 14, "dev": 5, "test": 5}
TEXTS = sum(EXAMPLES.values())
CASUAL, SPANISH = "dialogsum_casual", "dialogsum_es"  # made in this order


@dataclass(frozen=True)
class Making:
    """A command line but for its workspace: the publishers' files, and the folders of the text models."""

    raw: Path
    models: Path

    def words(self, workspace: Path, *more: str, only: tuple[str, ...] = (CASUAL, SPANISH)) -> list[str]:
        models = {"translator_model": "opus-mt-en-{language}", "tone_rewriter_model": "tones", "tone_rewriter_adapter": "adapter"}
        flags = {name: self.models / folder for name, folder in models.items()}
        flags |= {"length_models": self.models / "tones", "raw_data_dir": self.raw, "batch_size": 2, "workspace": workspace}
        return ["--only", *only, *(str(word) for name, value in flags.items() for word in (f"--{name}", value)), *more]


@pytest.fixture(scope="module")
def making(tmp_path_factory, tiny_tokenizer) -> Making:
    folder = tmp_path_factory.mktemp("making")
    models = folder / "models"
    tiny.build_translator(models / "opus-mt-en-es")
    tiny.build_tone_adapter(models / "adapter", tiny.build_tone_model(models / "tones", tiny_tokenizer))
    (folder / "raw").mkdir()
    examples = iter(draw_examples("dialogs", "validation"))
    for split, count in EXAMPLES.items():
        rows = [
            {"fname": f"{split}_{n}", "dialogue": e.input, "summary": render_all(e.meaning, "en")}
            for n, e in zip(range(count), examples)
        ]
        (folder / "raw" / f"dialogsum.{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Making(folder / "raw", models)


@pytest.fixture(scope="module")
def uninterrupted(making, tmp_path_factory) -> Path:
    """A workspace in which both sets were made at one go."""
    workspace = tmp_path_factory.mktemp("uninterrupted")
    run(making.words(workspace))
    return workspace


@pytest.fixture
def made(uninterrupted, tmp_path) -> Path:
    """A copy of that workspace."""
    return shutil.copytree(uninterrupted, tmp_path / "made")


@pytest.fixture
def rewritten(monkeypatch) -> list[str]:
    """The texts that text models have rewritten in this process since."""
    texts: list[str] = []
    for kind in (ToneRewriter, MarianTranslator):
        rewrite = kind.rewrite
        monkeypatch.setattr(kind, "rewrite", lambda self, some, rewrite=rewrite: texts.extend(some) or rewrite(self, some))
    return texts


@contextmanager
def running(words: list[str], log: Path) -> Iterator[subprocess.Popen]:
    """The command as a process of its own."""
    command = [sys.executable, "-m", "compositional.preparation", *words]
    with open(log, "wb") as file:
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(command, cwd=PROJECT, env=environment, stdout=file, stderr=file, preexec_fn=with_ctrl_c)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def wait_for_rows(workspace: Path, name: str, count: int, process: subprocess.Popen, log: Path) -> None:
    """Wait until so many texts of a set are rewritten; fails when the run ends or takes minutes before that."""
    deadline = time.monotonic() + 180
    while len(partial_rows(workspace, name)) < count:
        assert process.poll() is None, log.read_text()[-2000:]
        assert time.monotonic() < deadline, log.read_text()[-2000:]
        time.sleep(0.005)


def rows_file(workspace: Path, name: str) -> Path:
    return workspace / "data" / ".rewritten" / f"{name}.jsonl"


def partial_rows(workspace: Path, name: str) -> list[bytes]:
    """The whole lines of an unfinished file of rewritten texts, without their checksums."""
    partial = partial_of(rows_file(workspace, name))
    lines = partial.read_bytes().split(b"\n")[:-1] if partial.is_file() else []
    return [re.sub(rb', "crc32": \d+}$', b"}", line) for line in lines]


def progress(log: Path, name: str) -> list[int]:
    """The numbers of texts that a set's progress bar has shown."""
    return [int(count) for count in re.findall(rf"{name}: \w+: [^\r]*?(\d+)/{TEXTS} ", log.read_text())]


def files(workspace: Path) -> dict[str, bytes]:
    """Every file below data/, rewritten texts included."""
    data = workspace / "data"
    return {str(path.relative_to(data)): path.read_bytes() for path in data.rglob("*") if path.is_file()}


def times(workspace: Path) -> dict[str, int]:
    """When each file below data/ was written."""
    return {name: (workspace / "data" / name).stat().st_mtime_ns for name in files(workspace)}


def assert_same_files(one: Path, two: Path) -> None:
    found, expected = files(one), files(two)
    assert sorted(found) == sorted(expected)
    assert not [name for name in found if name.endswith((".partial", ".unfinished"))]
    assert [name for name in expected if found[name] != expected[name]] == []


@pytest.mark.slow(20)
def test_killed_in_one_set_and_ended_by_ctrl_c_in_the_next(making, uninterrupted, rewritten, tmp_path):
    workspace, log = tmp_path / "workspace", tmp_path / "log"
    words = making.words(workspace)
    with running(words, log) as process:
        wait_for_rows(workspace, CASUAL, 4, process, log)
        process.send_signal(signal.SIGKILL)
        process.wait()
    rows_of_killed = partial_rows(workspace, CASUAL)
    assert 4 <= len(rows_of_killed) < TEXTS
    assert progress(log, CASUAL)[-1] <= len(rows_of_killed)
    assert not (workspace / "data" / CASUAL).exists()

    with running(words, log) as process:
        wait_for_rows(workspace, SPANISH, 4, process, log)
        process.send_signal(signal.SIGINT)
        assert process.wait() == 130
    assert "the same command (without --overwrite) resumes from here" in log.read_text()
    assert "Traceback" not in log.read_text()
    assert progress(log, CASUAL)[0] == len(rows_of_killed)
    assert rows_file(workspace, CASUAL).read_bytes().split(b"\n")[: len(rows_of_killed)] == rows_of_killed
    rows_of_ended = partial_rows(workspace, SPANISH)
    assert 4 <= len(rows_of_ended) < TEXTS

    run(words)
    assert len(rewritten) == TEXTS - len(rows_of_ended)
    assert_same_files(workspace, uninterrupted)


@pytest.mark.slow(12)
def test_a_set_that_is_being_made_is_left_alone_and_a_terminated_run_goes_on(
    making, uninterrupted, rewritten, tmp_path, monkeypatch, capsys
):
    workspace, log = tmp_path / "workspace", tmp_path / "log"
    with running(making.words(workspace), log) as process:
        wait_for_rows(workspace, CASUAL, 4, process, log)
        process.send_signal(signal.SIGSTOP)
        before = times(workspace)
        with monkeypatch.context() as patch:
            patch.setattr(signal, "signal", lambda number, handler: None)
            assert exit_code_of(lambda: run(making.words(workspace))) == 2
        assert f"error: data set {CASUAL} is in use by another run" in capsys.readouterr().err
        assert times(workspace) == before
        process.send_signal(signal.SIGCONT)
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 143
    assert "Traceback" not in log.read_text()
    partial = partial_of(rows_file(workspace, CASUAL))
    done = len(partial_rows(workspace, CASUAL))
    assert 4 <= done < TEXTS
    partial.write_bytes(partial.read_bytes()[:-9])  # the second row of the last batch is broken off

    assert rewritten == []
    run(making.words(workspace))
    assert len(rewritten) == TEXTS - (done - 2) + TEXTS
    assert_same_files(workspace, uninterrupted)


def test_a_run_interrupted_after_the_last_text_starts_no_text_model(making, uninterrupted, made, monkeypatch):
    shutil.rmtree(made / "data" / SPANISH)
    (made / "data" / CASUAL / "card.md").unlink()
    for kind in (ToneRewriter, MarianTranslator):
        monkeypatch.setattr(kind, "start", lambda self: pytest.fail("it was started"))
    run(making.words(made))
    assert_same_files(made, uninterrupted)


def test_what_is_made_already_is_not_touched(making, made, rewritten):
    before = times(made)
    run(making.words(made))
    assert times(made) == before
    assert rewritten == []


def test_sets_of_another_text_model_are_made_anew_and_no_others(making, uninterrupted, made, rewritten, caplog, tmp_path):
    caplog.set_level(logging.INFO)
    models = shutil.copytree(making.models, tmp_path / "models")
    shutil.rmtree(models / "opus-mt-en-es")
    tiny.build_translator(models / "opus-mt-en-es", seed=1)
    before = times(made)
    run(Making(making.raw, models).words(made))
    assert "1 of 1: dialogsum_es (stale: text_model changed)" in caplog.messages
    assert any("made anew by another text model; the earlier texts are kept" in line for line in caplog.messages)
    assert len(rewritten) == TEXTS
    assert {name.split("/")[0] for name, when in times(made).items() if when == before.get(name)} >= {CASUAL, ".rewritten"}
    assert rows_file(made, CASUAL).read_bytes() == rows_file(uninterrupted, CASUAL).read_bytes()
    assert rows_file(made, SPANISH).read_bytes() != rows_file(uninterrupted, SPANISH).read_bytes()
    run(making.words(made))
    assert len(rewritten) == TEXTS, "the texts of the first model were not kept"
    assert rows_file(made, SPANISH).read_bytes() == rows_file(uninterrupted, SPANISH).read_bytes()


def test_of_a_changed_source_the_new_texts_alone_are_rewritten(making, made, rewritten, caplog, tmp_path):
    caplog.set_level(logging.INFO)
    raw = shutil.copytree(making.raw, tmp_path / "raw")
    file = raw / "dialogsum.test.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    rows[-1]["summary"] = "Nobody cooks."
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run(Making(raw, making.models).words(made, only=(SPANISH,)))
    assert "1 of 1: dialogsum_es (stale: source changed)" in caplog.messages
    assert rewritten == ["Nobody cooks."]
    assert sources_of(made)[-1] == "Nobody cooks."


def test_a_small_trial_costs_none_of_the_texts_that_were_rewritten(making, made, uninterrupted, rewritten):
    before = rows_file(made, SPANISH).read_bytes()
    run([*making.words(made, only=(SPANISH,)), "--max_train_examples", "3"])
    assert rewritten == []
    assert rows_file(made, SPANISH).read_bytes() == before
    run(making.words(made, only=(SPANISH,)))
    assert rewritten == []
    assert (made / "data" / SPANISH / "preparation.json").read_bytes() == (
        uninterrupted / "data" / SPANISH / "preparation.json"
    ).read_bytes()


def test_a_small_trial_after_an_interrupted_run_costs_none_either(making, made, rewritten):
    path = rows_file(made, SPANISH)
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    path.with_name(path.name + ".partial").write_text("".join(lines[:8]) + lines[8][:20], encoding="utf-8")
    path.unlink()
    run([*making.words(made, only=(SPANISH,)), "--max_train_examples", "3"])
    few = len(rewritten)
    assert 0 < few < TEXTS - 8
    run(making.words(made, only=(SPANISH,)))
    assert len(rewritten) == TEXTS - 8
    assert sorted(path.read_text(encoding="utf-8").splitlines(keepends=True)) == sorted(lines)


def test_a_text_that_was_damaged_while_unfinished_is_refused_by_other_texts_too(making, made):
    path = rows_file(made, SPANISH)
    row = json.loads(path.read_text(encoding="utf-8").splitlines()[0])
    checksum = zlib.crc32((json.dumps(row, ensure_ascii=False) + "\n").encode())
    damaged = json.dumps(row | {"target": row["target"] + "x", "crc32": checksum}, ensure_ascii=False)
    partial_of(path).write_text(damaged + "\n", encoding="utf-8")
    path.unlink()
    with pytest.raises(UserError, match=r"\.partial, line 1: not a row of this file"):
        run([*making.words(made, only=(SPANISH,)), "--max_train_examples", "3"])


def test_another_revision_of_a_text_model_makes_its_sets_anew(making, made, rewritten, monkeypatch):
    monkeypatch.setattr(marian, "REVISION", "another")
    run(making.words(made))
    assert len(rewritten) == TEXTS


def test_overwrite_makes_anew_what_is_made(making, uninterrupted, made, rewritten):
    rows = rows_file(made, SPANISH)
    rows.write_text(rows.read_text().replace('"target": "', '"target": "spoilt '))
    run(making.words(made, "--overwrite", only=(SPANISH,)))
    assert len(rewritten) == TEXTS
    assert_same_files(made, uninterrupted)


def sources_of(workspace: Path) -> list[Any]:
    """The texts that the targets of the Spanish test split were made from."""
    from datasets import load_from_disk

    return load_from_disk(str(workspace / "data" / SPANISH))["test"]["source"][:]


def test_what_is_dropped_can_be_changed_without_the_text_model(making, made, rewritten, tmp_path, monkeypatch):
    monkeypatch.setattr(MarianTranslator, "check", lambda self: pytest.fail("the text model isn't needed"))
    run([*making.words(made, only=(SPANISH,)), "--drop", "copy"])
    assert rewritten == []
    assert json.loads((made / "data" / SPANISH / "preparation.json").read_text())["made_from"]["drop"] == ["copy"]
