"""The preparation command end to end, on a few of Pocket's sets: folders, cards, lengths, and what is made again and why."""

from __future__ import annotations

from pathlib import Path

import pytest

from compositional.core.files import read_json
from compositional.data import SPLITS, Example, Locations, find_dataset
from compositional.experiment.arguments import parse_arguments
from compositional.experiment.examples import Examples, load_data
from compositional.experiment.plan import make_plan
from compositional.models.chat import ChatEncoder, instruction
from compositional.models.model import Model
from compositional.preparation import card as lengths
from compositional.preparation.card import Lengths, lengths_under
from compositional.preparation.plan import PAPERS_LENGTH_MODELS
from compositional.preparation.quality import FINDINGS, PreparedExample
from compositional.preparation.sets import read_back
from compositional.preparation.text_models.pocket import PocketGrammar
from compositional.tasks import find_task
from helpers.preparing import SETS, SIZES, cells_of, files_in, prepare, record_of, said_by, shown_by_dry_run

# ---- folders


def test_a_set_is_a_folder_of_three_splits_with_the_columns_of_its_kind(made):
    from datasets import load_from_disk

    for name in SETS:
        splits = load_from_disk(str(made.prepared_data(name)))
        assert {split: len(rows) for split, rows in splits.items()} == SIZES
        rewritten = [] if name == "pocket_dialogs" else ["source"]
        assert all(rows.column_names == ["id", "input", "target", *rewritten, "findings"] for rows in splits.values())


@pytest.mark.parametrize(
    ("name", "flags"),
    [
        ("pocket_dialogs", "--dataset pocket_dialogs"),
        (
            "pocket_replies_de",
            "--dataset pocket_replies --secondary_task translation --tgt_lang de --secondary_task_dataset pocket_replies_de",
        ),
    ],
)
def test_an_experiment_reads_from_the_folder_what_the_grammar_gives(name, flags, workspace):
    words = f"--experiment_name e --zero_shot --model_name_or_path pocket --do_valid --do_predict {flags}".split()

    def read() -> tuple[bool, list[list[Example]], dict[str, Examples]]:
        found = find_dataset(name, Locations(workspace.root / "data", None))
        stages = load_data(make_plan(*parse_arguments([*words, "--workspace", str(workspace.root)]))).stages
        return found.is_read_from_folder, [found.read(split) for split in SPLITS], stages

    from_folder, generated, generated_stages = read()
    assert not from_folder
    prepare(workspace, "--only", name)
    from_folder, prepared, stages = read()
    assert from_folder
    assert prepared == generated
    assert list(map(len, prepared)) == [8000, 250, 250]
    assert {stage: one.hash for stage, one in stages.items()} == {stage: one.hash for stage, one in generated_stages.items()}
    assert stages["test"].dataset.provenance()["fingerprint"] == record_of(workspace, name)["fingerprint"]


def test_source_is_the_english_target_and_inputs_are_those_of_the_main_set(made):
    main, spanish = (read_back(made.prepared_data(name)) for name in ("pocket_dialogs", "pocket_dialogs_es"))
    for split in SPLITS:
        assert [(e.id, e.input, e.source) for e in spanish[split]] == [(e.id, e.input, e.target) for e in main[split]]
        assert [e.target for e in spanish[split]] == PocketGrammar("es").rewrite([e.target for e in main[split]])
        assert all(example.source is None for example in main[split])


def test_the_record_says_what_a_set_was_made_from(made):
    for name in SETS:
        record = record_of(made, name)
        left_out = {"train": {"examples that were not sampled": 7950}, "validation": {}, "test": {}}
        assert record["counts"] == {split: {"kept": n, "left_out": left_out[split], "dropped": {}} for split, n in SIZES.items()}
        assert set(record["made_from"]) == {"source", "text_model", "drop", "code"}
        assert len(record["fingerprint"]) == 64
        assert record["source"] == "Pocket's grammar"
    assert record_of(made, "pocket_dialogs")["made_from"]["text_model"] is None
    assert record_of(made, "pocket_dialogs_es")["made_from"]["text_model"].items() >= PocketGrammar("es").identity().items()


def test_sets_made_from_files_say_so(tmp_path, workspace, monkeypatch, capsys):
    """A long reply is no runaway, for it doesn't say what its input says; a long text in another tone is one."""
    monkeypatch.setattr("compositional.preparation.plan.find_text_model", lambda *_: PocketGrammar("casual"))
    monkeypatch.setattr(
        PocketGrammar, "rewrite", lambda self, texts: [f"Hey. {'So it is, as I always say. ' * 5}" for text in texts]
    )
    for split in ("train", "valid", "test"):
        conversation = f"User 1: {split}?\nUser 2: {'This is what I have to tell about it. ' * 5}"
        text = f'user 1 personas,user 2 personas,Best Generated Conversation\np,q,"{conversation}"\n'
        (tmp_path / f"Synthetic-Persona-Chat_{split}.csv").write_text(text)
        (tmp_path / f"{split.removesuffix('id')}.tsv").write_text(f"Rephrased Content\n{split}\n")
    names = ("synthetic_persona_chat", "content_rephrasing_casual")
    flags = ("--only", *names, "--raw_data_dir", str(tmp_path), "--length_models", "pocket")
    rows = shown_by_dry_run(workspace, capsys, *flags)
    assert [rows[name][1:7] for name in names] == [
        ["the publishers' files", "as published", "1", "1", "1", "0"],
        ["the publishers' files", "llm_toys", "1", "1", "1", "3"],
    ]
    prepare(workspace, *flags)
    for name in names:
        assert record_of(workspace, name)["source"] == "the publishers' files"
    assert record_of(workspace, names[0])["findings"] == {split: {} for split in SPLITS}
    assert record_of(workspace, names[1])["findings"] == {split: {"runaway": 1} for split in SPLITS}


# ---- cards and lengths


def test_a_card_has_counts_findings_lengths_histograms_and_ten_examples(copied, monkeypatch):
    monkeypatch.setattr(PocketGrammar, "rewrite", lambda self, texts: ["```" if " will " in text else "Sí." for text in texts])
    prepare(copied, "--only", "pocket_dialogs_es", "--max_train_examples", "50", "--overwrite", "--drop", "copy")
    splits = read_back(copied.prepared_data("pocket_dialogs_es"))
    text = (copied.prepared_data("pocket_dialogs_es") / "card.md").read_text(encoding="utf-8")
    lines = text.splitlines()
    rows = cells_of(text)
    assert ["train", "50", "7950"] in rows
    assert ["test", "250", "0"] in rows
    assert {row[0] for row in rows} >= set(FINDINGS)
    measured = read_json(copied.prepared_data("pocket_dialogs_es") / "lengths.json")["lengths"]["pocket"]
    for split in SPLITS:
        for kind in ("prompt", "prompt_and_target"):
            figures = measured[split][kind]
            shown = ["pocket", split, kind.replace("_", " "), str(figures["mean"]), str(figures["maximum"]), "0.0 %"]
            assert shown in rows
    targets = [example.target for examples in splits.values() for example in examples]
    assert f"{'≤ 4':>9} {len(targets):>8} {'█' * 40}" in lines
    inputs = [len(example.input) for examples in splits.values() for example in examples]
    assert any(line.split()[:3] == ["≤", "128", str(sum(64 < n <= 128 for n in inputs))] for line in lines)
    shown = text[text.index("## Ten examples") :]
    assert [f"input: {example.input}\n" in shown for example in splits["train"]].count(True) == 10
    assert f"source: {splits['train'][0].source}\ntarget: {splits['train'][0].target}" in shown
    assert shown.count("````text") == shown.count("target: ```\n````\n") >= 1  # a target of backticks doesn't end its block


def test_a_card_shows_examples_of_findings(copied, monkeypatch):
    texts = {"beach": "### Sí.", "garden": ""}
    monkeypatch.setattr(
        PocketGrammar, "rewrite", lambda self, english: [next((texts[k] for k in texts if k in text), "Sí.") for text in english]
    )
    prepare(copied, "--only", "pocket_dialogs_es", "--max_train_examples", "50", "--overwrite")
    card = (copied.prepared_data("pocket_dialogs_es") / "card.md").read_text(encoding="utf-8")
    rows = cells_of(card)
    found = record_of(copied, "pocket_dialogs_es")["findings"]
    for name in ("empty", "end_marker"):
        assert [name, *(str(found[split].get(name, 0)) for split in SPLITS), FINDINGS[name]] in rows
        assert card.count(f"`{name}`, ") == 3
    assert "`copy`, " not in card
    assert "Some of them:" in card


def test_lengths_are_those_of_the_sequences_that_are_trained_on(made):
    encoder = ChatEncoder(Model("pocket").tokenizer)
    for name in SETS:
        tasks = find_dataset(name, Locations(Path("nowhere"), None)).tasks
        measured = read_json(made.prepared_data(name) / "lengths.json")["lengths"]["pocket"]
        for split, examples in read_back(made.prepared_data(name)).items():
            asked = instruction(tasks)
            prompts = [len(encoder.prompt(asked, example.input, 10**6).ids) for example in examples]
            whole = [
                len(encoder.training_sequence(asked, Example("", example.input, example.target), 10**6, False).ids)
                for example in examples
            ]
            for kind, numbers in (("prompt", prompts), ("prompt_and_target", whole)):
                assert measured[split][kind]["mean"] == round(sum(numbers) / len(numbers), 1)
                assert measured[split][kind]["maximum"] == max(numbers)
                assert measured[split][kind]["share_over_limit"] == 0


def test_lengths_over_512_are_counted_and_the_longest_is_shown(tiny_tokenizer, monkeypatch):
    assert Lengths.of([511, 512, 513, 1001]) == Lengths(634.2, 1001, 0.5)
    encoder, tasks = ChatEncoder(tiny_tokenizer), (find_task("reply"),)
    sizes = [(1, 1), (600, 1), (1, 600), (2, 2), (900, 900)]  # words of one token each, of inputs and targets
    examples = [PreparedExample(str(n), " I" * size, " I" * target) for n, (size, target) in enumerate(sizes)]
    empty = len(encoder.prompt(instruction(tasks), "", 10**6).ids)
    end = len(encoder.target(""))
    expected = {
        "prompt": Lengths(round(empty + 1504 / 5, 1), empty + 900, 2 / 5),
        "prompt_and_target": Lengths(round(empty + 1504 / 5 + end + 1504 / 5, 1), empty + 900 + 900 + end, 3 / 5),
    }
    for at_a_time in (1, 2, 2000):
        monkeypatch.setattr(lengths, "_AT_A_TIME", at_a_time)
        found = lengths_under(encoder, {"train": examples[::-1], "test": examples[:1]}, tasks)
        assert {kind: Lengths(**figures) for kind, figures in found["train"].items()} == expected
        assert found["test"]["prompt"]["maximum"] == empty + 1


# ---- lengths under models that can't be had


def test_lengths_that_cannot_be_measured_are_said_once_and_measured_later(workspace, caplog, monkeypatch):
    names = ("pocket_sentences_es", "pocket_sentences_fr")
    monkeypatch.setattr("compositional.preparation.plan.POCKETS_LENGTH_MODELS", ("nobody/nothing", "pocket"))
    flags = ("--only", *names, "--max_train_examples", "50")
    lines = said_by(workspace, caplog, *flags)
    assert len([line for line in lines if "nobody/nothing" in line]) == 1

    def lengths(name: str) -> dict:
        return read_json(workspace.prepared_data(name) / "lengths.json")["lengths"]

    def card(name: str) -> str:
        return (workspace.prepared_data(name) / "card.md").read_text(encoding="utf-8")

    for name in names:
        assert isinstance(lengths(name)["nobody/nothing"], str)
        assert isinstance(lengths(name)["pocket"], dict)
        assert "- nobody/nothing: not measured: " in card(name)
    data = files_in(workspace.root / "data")
    said_by(workspace, caplog, *flags)
    assert files_in(workspace.root / "data") == data  # nothing new is known

    encoder = ChatEncoder(Model("pocket").tokenizer)
    monkeypatch.setattr("compositional.preparation.prepare.encoder_of", lambda model: encoder)
    assert not any("of 2:" in line for line in said_by(workspace, caplog, *flags))
    for name in names:
        assert lengths(name)["nobody/nothing"] == lengths(name)["pocket"]
        assert "not measured" not in card(name)

    monkeypatch.setattr("compositional.preparation.prepare.encoder_of", lambda model: "no network")
    said_by(workspace, caplog, *flags)
    assert all(isinstance(measured, dict) for name in names for measured in lengths(name).values())


def test_lengths_are_measured_under_the_papers_models_by_default(tmp_path, workspace, caplog):
    for split in ("train", "dev", "test"):
        (tmp_path / f"dialogsum.{split}.jsonl").write_text('{"fname": "a", "dialogue": "d", "summary": "s"}\n')
    lines = said_by(workspace, caplog, "--only", "dialogsum", "--raw_data_dir", str(tmp_path))
    assert [model for model in PAPERS_LENGTH_MODELS if any(f"under {model} won't" in line for line in lines)] == list(
        PAPERS_LENGTH_MODELS
    )
    assert set(read_json(workspace.prepared_data("dialogsum") / "lengths.json")["lengths"]) == set(PAPERS_LENGTH_MODELS)


def test_an_experiment_records_what_data_it_read(run, workspace):
    prepare(workspace, "--only", "pocket_dialogs", "--max_train_examples", "50")
    run(
        "@configs/pocket.txt --experiment_name e --dataset pocket_dialogs --secondary_task translation --tgt_lang es "
        "--secondary_task_dataset pocket_dialogs_es --zero_shot --do_predict --max_test_examples 2 --max_new_tokens 2"
    )
    run("@configs/pocket.txt --experiment_name f --dataset pocket_dialogs --zero_shot --do_predict --max_test_examples 2")
    data = {name: read_json(workspace.results(name))["data"] for name in ("e", "f")}
    assert data["e"] == {"pocket_dialogs_es": {"source": "Pocket's grammar"}}
    record = record_of(workspace, "pocket_dialogs")
    read = {"folder": "pocket_dialogs", "fingerprint": record["fingerprint"], "made_from": record["made_from"]}
    assert data["f"] == {"pocket_dialogs": read}
