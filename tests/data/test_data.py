"""Reading the publishers' files and prepared sets, and choosing examples from them."""

from __future__ import annotations

import csv
import json
import shlex
from pathlib import Path

import pytest

from compositional.core.errors import UserError
from compositional.data import Dataset, Example, Locations, all_datasets, find_dataset
from compositional.data.synthetic_persona_chat import adjacent_turns
from compositional.experiment.arguments import parse_arguments
from compositional.experiment.examples import ExperimentData, load_data
from compositional.experiment.plan import make_plan

PERSONA_COLUMNS = ["user 1 personas", "user 2 personas", "Best Generated Conversation"]


@pytest.fixture
def raw(tmp_path) -> Path:
    """An empty folder for publishers' files."""
    folder = tmp_path / "raw"
    folder.mkdir()
    return folder


def dataset(name: str, raw: Path | None = None, prepared: Path = Path("nowhere")) -> Dataset:
    return find_dataset(name, Locations(prepared, raw))


def write_lines(path: Path, rows: list) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def dialogs(count: int) -> list[dict]:
    return [
        {"fname": f"test_{n}", "dialogue": f"#Person1#: Line {n}.", "summary": f"Summary {n}.", "topic": "t"} for n in range(count)
    ]


def write_conversations(path: Path, conversations: list[str]) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(PERSONA_COLUMNS)
        writer.writerows([["I sing.", 'I say "hi".\nOften.', conversation] for conversation in conversations])


def load(flags: str, raw: Path, workspace) -> ExperimentData:
    """What the command reads: the base model alone, on files in `raw`."""
    words = shlex.split(f"--experiment_name e --zero_shot --model_name_or_path pocket {flags}")
    return load_data(make_plan(*parse_arguments([*words, "--raw_data_dir", str(raw), "--workspace", str(workspace.root)])))


def save_prepared(folder: Path, rows: list[dict], splits: tuple[str, ...] = ("train", "validation", "test")) -> None:
    import datasets

    datasets.DatasetDict({split: datasets.Dataset.from_list(rows) for split in splits}).save_to_disk(str(folder))


# ---- DialogSum


def test_a_dialogue_with_one_summary_is_one_example(raw):
    row = {"fname": "train_7", "dialogue": "#Person1#: ¿Qué?\n#Person2#: 你好 🎉", "summary": "Sie grüßen.", "topic": "greeting"}
    write_lines(raw / "dialogsum.train.jsonl", [row])
    assert dataset("dialogsum", raw).read("train") == [Example("train_7", "#Person1#: ¿Qué?\n#Person2#: 你好 🎉", "Sie grüßen.")]


def test_a_dialogue_with_three_summaries_is_three_examples(raw):
    row = {"fname": "test_0", "dialogue": "#Person1#: Hi.", "topic1": "t"} | {f"summary{n}": f"S{n}" for n in (1, 2, 3)}
    write_lines(raw / "dialogsum.test.jsonl", [row])
    assert dataset("dialogsum", raw).read("test") == [Example(f"test_0_{n}", "#Person1#: Hi.", f"S{n}") for n in (1, 2, 3)]


def test_each_split_is_read_from_its_own_file(raw):
    for split, file in {"train": "train", "validation": "dev", "test": "test"}.items():
        write_lines(raw / f"dialogsum.{file}.jsonl", [{"fname": split, "dialogue": "d", "summary": split}])
    for split in ("train", "validation", "test"):
        assert [example.reference for example in dataset("dialogsum", raw).read(split)] == [split]


def test_blank_lines_are_no_examples(raw):
    path = raw / "dialogsum.test.jsonl"
    write_lines(path, dialogs(2))
    path.write_text(path.read_text().replace("\n", "\n\n  \n"))
    assert len(dataset("dialogsum", raw).read("test")) == 2


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"fname": "test_1", "dialogue": "cut o', "not a JSON object"),
        (b'{"fname": "test_1", "dialogue": "caf\xe9", "summary": "s"}', "not a JSON object"),
        (b'["a list"]', "expected a JSON object, found list"),
        (b'{"fname": "test_1", "dialogue": "d"}', "expected a text in column 'summary', it has fname, dialogue"),
        (b'{"fname": "test_1", "dialogue": "d", "summary": "  "}', "expected a text in column 'summary', found '  '"),
        (b'{"fname": "test_1", "dialogue": 7, "summary": "s"}', "expected a text in column 'dialogue', found 7"),
        (b'{"summary": "s"}', "expected a text in column 'dialogue', it has summary"),
    ],
)
def test_a_broken_line_is_named_by_file_and_number(line, reason, raw):
    path = raw / "dialogsum.test.jsonl"
    path.write_bytes(b'{"fname": "test_0", "dialogue": "d", "summary": "s"}\n\n' + line + b"\n")
    with pytest.raises(UserError) as caught:
        dataset("dialogsum", raw).read("test")
    (mistake,) = caught.value.mistakes
    assert mistake.startswith(f"{path}, line 3: {reason}")


def test_a_text_that_is_no_unicode_is_a_mistake_that_names_its_line(raw, workspace):
    path = raw / "dialogsum.test.jsonl"
    path.write_text('{"fname": "test_0", "dialogue": "half an emoji: \\ud83c", "summary": "s"}\n')
    with pytest.raises(UserError, match=r"dialogsum.test.jsonl, line 1"):
        load("--dataset dialogsum --do_predict", raw, workspace)


def test_a_missing_file_is_named(raw):
    with pytest.raises(UserError) as caught:
        dataset("dialogsum", raw).read("validation")
    assert caught.value.mistakes[0].startswith(f"{raw / 'dialogsum.dev.jsonl'} is missing")


def test_a_set_without_examples_is_a_mistake(raw, workspace):
    (raw / "dialogsum.test.jsonl").write_text("\n")
    with pytest.raises(UserError, match="the test split of dialogsum has no examples"):
        load("--dataset dialogsum --do_predict", raw, workspace)


def test_a_test_set_without_references_is_a_mistake(raw, workspace):
    write_lines(raw / "dialogsum.test.jsonl", [{"fname": "test_0", "dialogue": "d", "topic": "t"}])
    with pytest.raises(UserError, match=r"dialogsum\.test\.jsonl, line 1: expected a text in column 'summary'"):
        load("--dataset dialogsum --do_predict", raw, workspace)


def test_what_is_wrong_in_several_splits_is_reported_together(raw, workspace):
    (raw / "dialogsum.dev.jsonl").write_text("{\n")
    with pytest.raises(UserError) as caught:
        load("--dataset dialogsum --do_valid --do_predict", raw, workspace)
    first, second = caught.value.mistakes
    assert "dialogsum.dev.jsonl, line 1" in first
    assert "dialogsum.test.jsonl is missing" in second


def test_real_dialogues_are_read_whole_with_none_lost(shared_data):
    lines = (shared_data / "dialogsum.dev.jsonl").read_bytes().decode("utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    examples = dataset("dialogsum", shared_data).read("validation")
    assert len(examples) == 500
    assert [(e.id, e.input, e.reference) for e in examples] == [(r["fname"], r["dialogue"], r["summary"]) for r in rows]


# ---- Synthetic-Persona-Chat


def test_each_turn_and_the_next_are_a_pair_without_their_prefixes():
    conversation = "User 1: Hi!\nUser 2:  What's up: anything? \nUser 1: 你好 🎉"
    assert list(adjacent_turns(conversation)) == [("Hi!", "What's up: anything?"), ("What's up: anything?", "你好 🎉")]


def test_two_turns_of_one_user_are_no_pair():
    assert list(adjacent_turns("User 1: Hi!\nUser 1: Still me.\nUser 2: Hello!")) == [("Still me.", "Hello!")]


def test_a_line_that_is_no_turn_breaks_a_pair():
    conversation = "User 1: How do you cook it?\nUser 2: Like this:\n* Boil water.\nUser 1: Thanks!\n\nUser 2: Bye!"
    assert list(adjacent_turns(conversation)) == [("How do you cook it?", "Like this:")]


def test_an_empty_turn_is_no_pair():
    assert list(adjacent_turns("User 1: Hi!\nUser 2: \nUser 1: Hello?")) == []


def test_quoted_fields_of_several_lines_are_one_row(raw):
    write_conversations(
        raw / "Synthetic-Persona-Chat_train.csv",
        ['User 1: Say "hi", please.\nUser 2: "Hi"!\nUser 1: Thanks.', "User 2: One.\nUser 1: Two."],
    )
    assert dataset("synthetic_persona_chat", raw).read("train") == [
        Example("train_0_0", 'Say "hi", please.', '"Hi"!'),
        Example("train_0_1", '"Hi"!', "Thanks."),
        Example("train_1_0", "One.", "Two."),
    ]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (b'p,q,"User 1: Hi!\nUser 2: no end\n', "not a row of a table"),
        (b'p,q,"User 1: Hi!" User 2\n', "not a row of a table"),
        (b"p,q,User 1: caf\xe9\n", "not a row of a table"),
        (b"p,q\n", "expected 3 fields, found 2"),
        (b"p,q,,r\n", "expected 3 fields, found 4"),
        (b"p,q,\n", "expected a text in column 'Best Generated Conversation', found ''"),
    ],
)
def test_a_broken_row_is_named_by_file_and_line(row, reason, raw):
    path = raw / "Synthetic-Persona-Chat_train.csv"
    path.write_bytes(",".join(PERSONA_COLUMNS).encode() + b'\np,q,"User 1: Hi!\nUser 2: Hello!"\n' + row)
    with pytest.raises(UserError) as caught:
        dataset("synthetic_persona_chat", raw).read("train")
    assert caught.value.mistakes[0].startswith(f"{path}, line 4: {reason}")


def test_another_table_is_a_mistake_that_names_the_column(raw):
    (raw / "Synthetic-Persona-Chat_train.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match="expected a text in column 'Best Generated Conversation', it has a, b"):
        dataset("synthetic_persona_chat", raw).read("train")


def test_a_missing_conversation_file_is_named(raw):
    with pytest.raises(UserError, match=r"Synthetic-Persona-Chat_test\.csv is missing"):
        dataset("synthetic_persona_chat", raw).read("test")


def test_validation_and_test_are_the_same_1000_pairs_each_time_and_training_is_all(raw):
    conversations = ["\n".join(f"User {n % 2 + 1}: {row} {n}" for n in range(4)) for row in range(400)]
    for split in ("train", "valid", "test"):
        write_conversations(raw / f"Synthetic-Persona-Chat_{split}.csv", conversations)
    persona_chat = dataset("synthetic_persona_chat", raw)
    everything = persona_chat.read("train")
    assert len(everything) == 1200
    for split in ("validation", "test"):
        sample = persona_chat.read(split)
        assert len(sample) == 1000
        assert sample == persona_chat.read(split)
        inputs = [example.input for example in sample]
        assert inputs == [example.input for example in everything if example.input in set(inputs)]


def test_the_real_conversations_have_25847_adjacent_pairs(shared_data):
    path = shared_data / "Synthetic-Persona-Chat_valid.csv"
    with open(path, newline="", encoding="utf-8") as file:
        conversations = [row["Best Generated Conversation"] for row in csv.DictReader(file)]
    assert len(conversations) == 1000
    pairs = [pair for conversation in conversations for pair in adjacent_turns(conversation)]
    assert len(pairs) == 25847
    unusual = {character for conversation in conversations for character in conversation if ord(character) > 127}
    assert unusual
    assert unusual == {character for pair in pairs for text in pair for character in text if ord(character) > 127}
    sample = dataset("synthetic_persona_chat", shared_data).read("validation")
    assert len({example.id for example in sample}) == 1000
    assert {(example.input, example.reference) for example in sample} <= set(pairs)


# ---- prepared sets


def test_a_prepared_set_is_read_back_as_it_was_saved(tmp_path):
    rows = [{"id": f"test_{n}", "input": f"#Person1#: Line {n}.", "target": f"¿Línea {n}? 🎉"} for n in range(3)]
    save_prepared(tmp_path / "dialogsum_es", rows)
    prepared = dataset("dialogsum_es", prepared=tmp_path)
    for split in ("train", "validation", "test"):
        assert prepared.read(split) == [Example(row["id"], row["input"], row["target"]) for row in rows]
    assert (prepared.inputs_of, prepared.language, [task.name for task in prepared.tasks]) == (
        "dialogsum",
        "es",
        ["summarization", "translation"],
    )


def test_a_prepared_set_that_is_not_there_is_a_mistake(tmp_path):
    with pytest.raises(
        UserError, match=r"dialogsum_es is missing: bash prepare_compositional_task_data\.sh --only dialogsum_es makes it"
    ):
        dataset("dialogsum_es", prepared=tmp_path).read("train")


def test_a_prepared_set_without_a_split_or_a_column_is_a_mistake(tmp_path):
    save_prepared(tmp_path / "dialogsum_es", [{"id": "0", "input": "x", "target": "y"}], splits=("train",))
    with pytest.raises(UserError, match="dialogsum_es has no test split; it has train"):
        dataset("dialogsum_es", prepared=tmp_path).read("test")
    save_prepared(tmp_path / "dialogsum_fr", [{"id": "0", "input": "x", "targets": "y"}])
    with pytest.raises(UserError, match="dialogsum_fr, test, row 0: expected a text in column 'target', it has id, input, targets"):
        dataset("dialogsum_fr", prepared=tmp_path).read("test")


def test_a_prepared_set_with_a_damaged_split_is_a_mistake(tmp_path):
    save_prepared(tmp_path / "dialogsum_es", [{"id": "0", "input": "x", "target": "y"}])
    for file in (tmp_path / "dialogsum_es" / "test").iterdir():
        file.write_bytes(b"")
    with pytest.raises(UserError, match="dialogsum_es"):
        dataset("dialogsum_es", prepared=tmp_path).read("test")


def test_there_is_a_prepared_set_for_every_main_set_language_and_tone():
    known = all_datasets(Locations(Path("nowhere"), None))
    variants = ("es", "fr", "de", "professional", "casual", "witty", "paraphrase")
    assert {f"{main}_{variant}" for main in ("dialogsum", "synthetic_persona_chat") for variant in variants} <= set(known)
    assert {"tedtalks_es", "tedtalks_fr", "tedtalks_de", "content_rephrasing_witty", "content_rephrasing_paraphrase"} <= set(known)
    assert all(known[f"synthetic_persona_chat_{variant}"].main_task.name == "reply" for variant in variants)


# ---- choosing examples


def test_a_sample_is_seeded_and_keeps_the_order(raw, workspace):
    write_lines(raw / "dialogsum.test.jsonl", dialogs(200))
    flags = "--dataset dialogsum --do_predict --max_test_examples 20"
    sample = load(flags, raw, workspace).stages["test"]
    numbers = [int(example.id.removeprefix("test_")) for example in sample.chosen]
    assert len(numbers) == 20
    assert numbers == sorted(set(numbers))
    assert numbers != list(range(20))
    assert sample.available == 200
    again = load(flags, raw, workspace).stages["test"]
    assert (again.chosen, again.hash) == (sample.chosen, sample.hash)
    other = load(f"{flags} --data_seed 1", raw, workspace).stages["test"]
    assert other.chosen == sample.chosen, "seeds of training that are repeated predict the same examples"


def test_a_sample_of_training_examples_has_the_seed_of_the_data(raw, workspace):
    write_lines(raw / "dialogsum.train.jsonl", dialogs(200))
    words = f"--experiment_name e --stored_model_name e --do_train --model_name_or_path pocket --raw_data_dir {raw}"
    rest = f"--dataset dialogsum --max_train_examples 20 --workspace {workspace.root}"
    samples = [
        load_data(make_plan(*parse_arguments(shlex.split(f"{words} {rest} {seed}")))).training[0]
        for seed in ("", "--data_seed 42", "--data_seed 1")
    ]
    assert samples[0].chosen == samples[1].chosen != samples[2].chosen
    assert samples[0].hash != samples[2].hash


@pytest.mark.parametrize("limit", ["", "--max_test_examples 5", "--max_test_examples 9"])
def test_without_a_limit_below_their_number_all_examples_are_taken(limit, raw, workspace):
    write_lines(raw / "dialogsum.test.jsonl", dialogs(5))
    sample = load(f"--dataset dialogsum --do_predict {limit}", raw, workspace).stages["test"]
    assert [example.id for example in sample.chosen] == [f"test_{n}" for n in range(5)]


def test_the_hash_of_the_data_changes_with_any_text(raw, workspace):
    rows = dialogs(3)
    hashes = set()
    for change in ({}, {"dialogue": "other"}, {"summary": "other"}, {"fname": "other"}):
        write_lines(raw / "dialogsum.test.jsonl", [*rows[:2], rows[2] | change])
        hashes.add(load("--dataset dialogsum --do_predict", raw, workspace).stages["test"].hash)
    assert len(hashes) == 4


def test_an_id_that_stands_twice_is_a_mistake(raw, workspace):
    write_lines(raw / "dialogsum.test.jsonl", [*dialogs(3), *dialogs(1)])
    with pytest.raises(UserError, match="the test split of dialogsum has duplicate ids"):
        load("--dataset dialogsum --do_predict", raw, workspace)
