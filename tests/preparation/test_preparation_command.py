"""The preparation command: which sets it makes, what it makes again and why, and mistakes, after which nothing is written."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from itertools import groupby
from pathlib import Path

import pytest

from compositional.preparation.plan import make_preparation_plan, parse_preparation_arguments
from compositional.preparation.sets import read_back
from compositional.preparation.text_models.pocket import PocketGrammar
from helpers import PROJECT
from helpers.preparing import FEW, SETS, WITTY, files_in, prepare, record_of, said_by, shown_by_dry_run

LANGUAGES = ("es", "fr", "de")
TONES = ("professional", "casual", "witty", "paraphrase")


@pytest.fixture
def started(monkeypatch) -> list[str]:
    """The styles of the text models that are started."""
    styles: list[str] = []
    monkeypatch.setattr(PocketGrammar, "start", lambda self: styles.append(self.style))
    return styles


# ---- which sets


def test_the_papers_sets_are_made_by_default(workspace, capsys):
    published = {"dialogsum", "synthetic_persona_chat", *(f"tedtalks_{language}" for language in LANGUAGES)}
    composed = {f"{main}_{v}" for main in ("dialogsum", "synthetic_persona_chat") for v in LANGUAGES + TONES}
    rows = shown_by_dry_run(workspace, capsys)
    assert len(rows) == 23
    assert set(rows) == published | composed | {f"content_rephrasing_{tone}" for tone in TONES}
    for name, (_, _, made_by, *_) in rows.items():
        expected = "marian" if name.endswith(LANGUAGES) else "llm_toys"
        assert made_by == ("as published" if name in published else expected)
    # Those of one text model follow one another.
    models = ["" if name in published else name.rsplit("_", 1)[1] for name in rows]
    assert models[:5] == [""] * 5
    assert len(list(groupby(models))) == len(set(models)) == 8


def test_pockets_sets_are_made_by_a_flag(workspace, capsys):
    rows = shown_by_dry_run(workspace, capsys, "--pocket", "--max_train_examples", "50")
    expected = {f"pocket_{source}_{v}" for source in ("dialogs", "replies", "sentences") for v in LANGUAGES + TONES}
    of_three_tasks = {f"pocket_dialogs_{language}_casual" for language in LANGUAGES}
    assert set(rows) == {"pocket_dialogs", "pocket_replies"} | expected | of_three_tasks
    assert all(cells[2] == "pocket" for name, cells in rows.items() if name in expected)
    assert set(shown_by_dry_run(workspace, capsys, "--pocket", "--only", "*_es")) == {
        f"pocket_{source}_es" for source in ("dialogs", "replies", "sentences")
    }


@pytest.mark.parametrize(
    ("only", "expected"),
    [
        ("tedtalks_[def]? dialogsum", {"tedtalks_es", "tedtalks_fr", "tedtalks_de", "dialogsum"}),
        ("*[mgt]_witty", {f"{main}_witty" for main in ("dialogsum", "synthetic_persona_chat", "content_rephrasing")}),
        (
            "tedtalks_[ef]? --only dialogsum_[def]? dialogsum_es",
            {"tedtalks_es", "tedtalks_fr", *(f"dialogsum_{v}" for v in LANGUAGES)},
        ),
    ],
)
def test_only_takes_names_and_patterns(only, expected, workspace, capsys):
    assert set(shown_by_dry_run(workspace, capsys, "--only", *only.split())) == expected


# ---- the dry run


def test_a_dry_run_needs_no_network_for_the_hubs_sources(workspace, capsys, monkeypatch):
    def called(*_: object, **__: object) -> None:
        raise AssertionError("the network was asked")

    for name in ("socket.getaddrinfo", "datasets.load_dataset", "compositional.core.hub.use_cache_without_network"):
        monkeypatch.setattr(name, called)
    rows = shown_by_dry_run(workspace, capsys)
    assert not workspace.root.exists()
    assert rows["dialogsum_es"] == [
        *("missing", "hub knkarthick/dialogsum@main", "marian"),
        *("12,460 rows", "500 rows", "1,500 rows", "all", "?"),
    ]
    assert rows["tedtalks_es"][1] == "hub neulab/ted_multi@refs/convert/parquet"


def test_a_dry_run_says_how_much_there_is_to_rewrite_and_what_is_made(made, workspace, capsys):
    texts = {e.source for examples in read_back(made.prepared_data("pocket_sentences_witty")).values() for e in examples}
    size = [f"{len(texts)}", f"{sum(map(len, texts)):,}"]
    for there, state in ((workspace, "missing"), (made, "up to date")):
        rows = shown_by_dry_run(there, capsys, *FEW)
        assert list(rows) == list(SETS)
        assert rows["pocket_dialogs"] == [state, "Pocket's grammar", "as published", "50", "250", "250", "0", "0"]
        assert rows["pocket_sentences_witty"] == [state, "Pocket's grammar", "pocket", "50", "250", "250", *size]
    rows = shown_by_dry_run(made, capsys, *FEW, "--drop", "copy", "--data_seed", "7")
    assert rows["pocket_dialogs"][0] == "stale: drop, source changed"


# ---- made again, or not


def test_a_second_run_makes_nothing_anew(copied, started, caplog):
    before = files_in(copied.root / "data")
    lines = said_by(copied, caplog, *FEW)
    assert files_in(copied.root / "data") == before
    assert len(lines) == 3
    assert all("50 + 250 + 250 examples" in line for line in lines)
    assert started == []


def test_a_removed_folder_is_made_again_from_the_texts_that_were_rewritten(copied, started, caplog):
    record = record_of(copied, "pocket_dialogs_es")
    others = [files_in(copied.prepared_data(name)) for name in SETS[:2]]
    examples = read_back(copied.prepared_data("pocket_dialogs_es"))
    shutil.rmtree(copied.prepared_data("pocket_dialogs_es"))
    assert "1 of 1: pocket_dialogs_es (missing)" in said_by(copied, caplog, *FEW)
    assert record_of(copied, "pocket_dialogs_es")["fingerprint"] == record["fingerprint"]
    assert read_back(copied.prepared_data("pocket_dialogs_es")) == examples
    assert [files_in(copied.prepared_data(name)) for name in SETS[:2]] == others
    assert started == []


@pytest.mark.parametrize("name", ["card.md", "lengths.json"])
@pytest.mark.parametrize("disturb", [lambda whole: None, lambda whole: whole[:-9], lambda whole: b"#" + whole[1:]])
def test_a_card_that_is_removed_or_damaged_is_written_again_without_making_the_set(disturb, name, copied, caplog):
    folder = copied.prepared_data("pocket_dialogs_es")
    before, whole = files_in(folder), (folder / name).read_bytes()
    (folder / name).unlink()
    if disturbed := disturb(whole):
        (folder / name).write_bytes(disturbed)
    assert not any("of 1:" in line for line in said_by(copied, caplog, *FEW))
    assert (folder / name).read_bytes() == whole
    described = {".", "card.md", "lengths.json"}
    assert {path: time for path, time in files_in(folder).items() if path not in described} == {
        path: time for path, time in before.items() if path not in described
    }


def other_grammar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PocketGrammar, "identity", lambda self: {"model": "another", "style": self.style})


def other_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("compositional.preparation.quality.REVISION", "another")
    monkeypatch.setattr("compositional.preparation.text_models.pocket.REVISION", "another")


@pytest.mark.parametrize(
    ("flags", "change", "reason", "is_rewritten"),
    [
        (("--drop", "runaway"), None, "drop", False),
        (("--data_seed", "1"), None, "source", True),
        (("--max_train_examples", "51"), None, "source", True),
        ((), other_grammar, "text_model", True),
        ((), other_code, "code, text_model", True),
    ],
)
def test_a_stale_set_says_why_it_is_made_anew(flags, change, reason, is_rewritten, copied, monkeypatch, started, caplog):
    earlier = record_of(copied, "pocket_sentences_witty")
    if change:
        change(monkeypatch)
    lines = said_by(copied, caplog, *WITTY, *flags)
    assert f"1 of 1: pocket_sentences_witty (stale: {reason} changed)" in lines
    record = record_of(copied, "pocket_sentences_witty")
    assert record["fingerprint"] != earlier["fingerprint"]
    assert {key for key in record["made_from"] if record["made_from"][key] != earlier["made_from"][key]} == set(reason.split(", "))
    assert started == ["witty"] * is_rewritten
    before = files_in(copied.root / "data")
    assert not any("of 1:" in line for line in said_by(copied, caplog, *WITTY, *flags))
    assert files_in(copied.root / "data") == before


def test_the_fingerprint_is_the_same_in_each_run_and_another_with_other_content(made, workspace, monkeypatch):
    prepare(workspace, *WITTY)
    record = record_of(made, "pocket_sentences_witty")
    assert record_of(workspace, "pocket_sentences_witty")["fingerprint"] == record["fingerprint"]
    monkeypatch.setattr(PocketGrammar, "rewrite", lambda self, texts: [f"{text} Ha!" for text in texts])
    prepare(workspace, *WITTY, "--overwrite")
    other = record_of(workspace, "pocket_sentences_witty")
    assert other["made_from"] == record["made_from"]
    assert other["fingerprint"] != record["fingerprint"]


def test_overwrite_makes_anew_what_is_up_to_date(copied, started, caplog):
    assert "1 of 1: pocket_sentences_witty (missing)" in said_by(copied, caplog, *WITTY, "--overwrite")
    assert started == ["witty"]


# ---- the script


def run_script(folder: Path, *words: str) -> subprocess.CompletedProcess:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    command = ["bash", str(PROJECT / "prepare_compositional_task_data.sh"), *words]
    environment = os.environ | {"PATH": path, "VIRTUAL_ENV": sys.prefix}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


@pytest.mark.slow
def test_the_script_helps_and_finds_mistakes_from_any_folder(tmp_path):
    helped = run_script(tmp_path, "--help")
    assert (helped.returncode, helped.stderr) == (0, "")
    assert "usage: prepare_compositional_task_data.sh" in helped.stdout
    assert "--max_train_examples" in helped.stdout
    mistaken = run_script(tmp_path, "--pockets", "--only", "pocket_dialogs with a space")
    assert (mistaken.returncode, mistaken.stdout) == (2, "")
    flag, name = mistaken.stderr.splitlines()
    assert flag.startswith("error: unknown flag --pockets: did you mean --pocket")
    assert name.startswith("error: --only pocket_dialogs with a space: there is no such set")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow(9)
def test_the_script_makes_data_where_it_is_typed(tmp_path):
    done = run_script(tmp_path, *WITTY)
    assert done.returncode == 0, done.stderr
    assert "pocket_sentences_witty: 50 + 250 + 250 examples" in done.stderr
    assert (tmp_path / "data" / "pocket_sentences_witty" / "card.md").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("words", ["--help", "--dry_rum", "--only nothing --drop nothing", "--tone_rewriter marian"])
def test_help_and_mistakes_need_no_library_of_weight(words):
    script = (
        "import sys\nfrom compositional.preparation.__main__ import run\nfrom compositional.core.errors import UserError\n"
        "try:\n    run(sys.argv[1:])\nexcept UserError:\n    print('mistake', file=sys.stderr)\n"
        "except SystemExit as error:\n    print('help', error.code, file=sys.stderr)\n"
        "heavy = {'torch', 'transformers', 'datasets', 'peft', 'numpy', 'pyarrow', 'lingua', 'huggingface_hub'}\n"
        "print(*sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script, *words.split()], cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.split() == (["help", "0"] if words == "--help" else ["mistake"])


def test_a_text_model_is_loaded_once_for_all_its_sets_and_leaves_before_the_next(workspace, monkeypatch):
    happened = []

    class Noted(PocketGrammar):
        def start(self) -> None:
            happened.append(f"start {self.style}")

        def stop(self) -> None:
            happened.append(f"stop {self.style}")

    monkeypatch.setattr("compositional.preparation.plan.find_text_model", lambda name, task, settings, flag: Noted(task.variant))
    sets = ("pocket_dialogs_es", "pocket_dialogs_fr", "pocket_replies_es", "pocket_replies")
    plan = make_preparation_plan(parse_preparation_arguments(["--only", *sets, "--workspace", str(workspace.root)])[0])
    spanish, french = ({id(one.text_model) for one in plan.sets if one.name.endswith(end)} for end in ("_es", "_fr"))
    assert len(spanish) == len(french) == 1
    assert spanish != french
    prepare(workspace, "--only", *sets, "--max_train_examples", "5")
    ends = [event for event, following in zip(happened, [*happened[1:], ""], strict=True) if event != following]
    assert ends == ["start es", "stop es", "start fr", "stop fr"]
