"""Sources as the preparation reads them: real samples, TED talks and Sound Natural by hand, and one broken file after another."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from itertools import product
from pathlib import Path

import pyarrow.parquet
import pytest

from compositional.core.errors import UserError
from compositional.data import SPLITS, Dataset, Example, Locations, Reading, all_datasets, find_dataset
from compositional.preparation.__main__ import run as run_preparation
from compositional.preparation.sets import read_sources

TONES = ("casual", "professional", "witty", "paraphrase")
PERSONA = b"user 1 personas,user 2 personas,Best Generated Conversation\n"
PERSONA_ROW = b'p,q,"User 1: Hi!\nUser 2: Hello!"\n'
TED_ROWS = [  # en, es
    ("I &apos;m here , &quot; he said .", "Estoy aqu\u00ed &amp; all\u00ed ."),
    ("__NULL__", "Nada ."),
    ("Nothing .", "_ _ NULL _ _"),
    ('"An open quote', 'Una "comilla" 🎉'),
    ("Missing .", ""),
    ("_ _ NULL _ _", "__NULL__"),
    ("R &amp;amp; D &lt; 1", "  I + D  "),
]
TED_EXAMPLES = [
    Example("train_0", "I 'm here , \" he said .", "Estoy aquí & allí ."),
    Example("train_3", '"An open quote', 'Una "comilla" 🎉'),
    Example("train_6", "R &amp; D < 1", "I + D"),
]


def test_each_of_pockets_sets_has_its_own_references(tmp_path):
    """Three sets that the grammar says in another language and tone share their inputs."""
    sets = [one for one in all_datasets(Locations(tmp_path, None)).values() if one.benchmark == "pocket" and not one.rewritten]
    assert len({one.inputs_of for one in sets}) < len(sets)
    found = read_sources(sets, 20, 42)
    for one in sets:
        expected = {example.id: example.reference for example in one.read_source("test").examples}
        assert {example.id: example.reference for example in found[one.name].splits["test"]} == expected


def dataset(name: str, raw: Path | None) -> Dataset:
    return find_dataset(name, Locations(Path("nowhere"), raw))


def tone_entry(number: int, **change: object) -> dict:
    return {"original": f"Sentence {number}."} | {tone: f"{tone} {number}" for tone in TONES} | change


def in_json(entries: object) -> bytes:
    return json.dumps(entries).encode()


def write_parquet(path: Path, rows: list[dict[str, str]]) -> None:
    """Texts by language, as the hub's conversion of TED talks has them."""
    write_table(path, {"translations": [{"language": list(row), "translation": list(row.values())} for row in rows]})


def write_table(path: Path, columns: dict[str, list]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.table(columns), path)


@pytest.fixture
def raw(tmp_path) -> Path:
    """The publishers' files of every source, whole but tiny."""
    folder = tmp_path / "raw"
    folder.mkdir()
    for split in SPLITS:
        for name, content in {
            "dialogsum": b'{"fname": "a", "dialogue": "d", "summary": "s"}\n',
            "synthetic_persona_chat": PERSONA + PERSONA_ROW,
            "tedtalks_es": b"talk_name\ten\tes\tfr\tde\nt\tHello .\tHola .\tSalut .\tHallo .\n",
            "content_rephrasing_witty": b"Rephrased Content\tNote\ncall mom\tn\n",
            "llm_toys_casual": in_json([tone_entry(number) for number in range(40)]),
        }.items():
            (folder / dataset(name, folder).source.files[split]).write_bytes(content)
    return folder


@pytest.fixture
def mistakes(raw, workspace) -> Callable[..., list[str]]:
    """The mistakes that the preparation of some sets ends with, after which nothing is written."""

    def found(*flags: str) -> list[str]:
        before = {path: path.read_bytes() for path in raw.rglob("*") if path.is_file()}
        with pytest.raises(UserError) as caught:
            run_preparation([*flags, "--workspace", str(workspace.root)])
        assert not workspace.root.exists()
        assert {path: path.read_bytes() for path in raw.rglob("*") if path.is_file()} == before
        return list(caught.value.mistakes)

    return found


# ---- TED talks


def test_tedtalks_leave_out_and_count_what_is_missing_and_undo_escapes(raw):
    lines = ["fr\tes\ttalk_name\ten", *(f"x\t{spanish}\tt\t{english}" for english, spanish in TED_ROWS)]
    (raw / "all_talks_train.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    reading = dataset("tedtalks_es", raw).read_source("train")
    assert reading == Reading(TED_EXAMPLES, {"rows without English or es": 4})


def test_tedtalks_in_parquet_give_the_examples_of_the_tsv(raw):
    """A language that a talk lacks is left out of a row, or stands there as a marker."""
    rows = [{"fr": "x", "es": spanish, "en": english} if spanish else {"fr": "x", "en": english} for english, spanish in TED_ROWS]
    for number in (2, 0, 1):  # shards are read in the order of their names, whichever was written first
        write_parquet(raw / "plain_text" / "train" / f"000{number}.parquet", rows[3 * number : 3 * number + 3])
    assert dataset("tedtalks_es", raw).read_source("train") == Reading(TED_EXAMPLES, {"rows without English or es": 4})
    assert [example.reference for example in dataset("tedtalks_es", raw).read("test")] == ["Hola ."]  # of the TSV beside it


# ---- Sound Natural and llm-toys


def test_content_rephrasing_gets_a_capital_and_is_otherwise_untouched(raw):
    texts = {
        "can you PICK up the Kids, please": "Can you PICK up the Kids, please",
        "éclairs for anna": "Éclairs for anna",
        "🎉 party at 8": "🎉 party at 8",
        "8 people": "8 people",
        "  x ": "X",
        '"he said ""hi""\ttwice\nor so"': 'He said "hi"\ttwice\nor so',
        'don\'t say "hi"': 'Don\'t say "hi"',
    }
    rows = "".join(f"u\t{text}\tn\n" for text in texts)
    (raw / "train.tsv").write_text(f"User\tRephrased Content\tNote\n{rows}", encoding="utf-8")
    reading = dataset("content_rephrasing_witty", raw).read_source("train")
    assert [example.input for example in reading.examples] == list(texts.values())
    assert [example.reference for example in reading.examples] == list(texts.values())
    assert reading.left_out == {}


def test_a_letter_without_a_capital_of_one_letter_stays_as_it_is(raw):
    (raw / "train.tsv").write_text("Rephrased Content\nßtrasse 5\n", encoding="utf-8")
    (example,) = dataset("content_rephrasing_witty", raw).read_source("train").examples
    assert example.input == "ßtrasse 5"


@pytest.mark.parametrize("tone", TONES)
def test_all_real_llm_toys_entries_are_in_one_split_each(tone, shared_data):
    entries = json.loads((shared_data / "paraphrase_tone.json").read_bytes())
    readings = {split: dataset(f"llm_toys_{tone}", shared_data).read_source(split) for split in SPLITS}
    examples = [example for reading in readings.values() for example in reading.examples]
    assert len(examples) == len({example.id for example in examples}) == 860
    assert Counter((e.input, e.reference) for e in examples) == Counter((entry["original"], entry[tone]) for entry in entries)
    assert any(not example.input.isascii() or not example.reference.isascii() for example in examples)
    inputs = {split: {example.input for example in reading.examples} for split, reading in readings.items()}
    assert not any(inputs[one] & inputs[other] for one, other in product(SPLITS, SPLITS) if one != other)
    assert {split: len(reading.examples) for split, reading in readings.items()} == dataset(f"llm_toys_{tone}", None).source.rows
    assert all(reading.left_out == {} for reading in readings.values())


# ---- DialogSum and Persona-Chat


def test_the_real_dialogues_come_through_the_command_whole(shared_data, raw, workspace):
    for split in SPLITS:
        shutil.copy(shared_data / "dialogsum.dev.jsonl", raw / dataset("dialogsum", raw).source.files[split])
    run_preparation(f"--only dialogsum --length_models pocket --raw_data_dir {raw} --workspace {workspace.root}".split())
    rows = [json.loads(line) for line in (shared_data / "dialogsum.dev.jsonl").read_bytes().splitlines()]
    made = find_dataset("dialogsum", Locations(workspace.root / "data", None))
    expected = [Example(row["fname"], row["dialogue"], row["summary"]) for row in rows]
    assert len(expected) == 500
    assert all(made.read(split) == expected for split in SPLITS)


def test_real_conversations_are_sampled_and_all_their_lines_are_accounted_for(shared_data, raw):
    for split in SPLITS:
        path = raw / dataset("synthetic_persona_chat", raw).source.files[split]
        shutil.copy(shared_data / "Synthetic-Persona-Chat_valid.csv", path)
    train, validation, test = (dataset("synthetic_persona_chat", raw).read_source(split) for split in SPLITS)
    # 27,747 pairs of adjacent lines are in the file.
    assert (len(train.examples), train.left_out) == (25847, {"pairs of lines that are no turns of two users": 1900})
    for sample in (validation, test):
        assert len(sample.examples) == 1000
        assert sample.left_out == train.left_out | {"pairs of turns that were not sampled": 24847}
        assert {(e.input, e.reference) for e in sample.examples} <= {(e.input, e.reference) for e in train.examples}


def test_a_sample_of_training_is_seeded_counted_and_shared_by_sets_of_the_same_inputs(raw):
    rows = [{"fname": f"f{number}", "dialogue": f"d{number}", "summary": "s"} for number in range(300)]
    (raw / "dialogsum.train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def sampled(name: str, seed: int = 42, count: int | None = 30) -> list[str]:
        """The ids in a run of its own for a set."""
        source = read_sources([dataset(name, raw)], count, seed)[name]
        assert len(source.splits["train"]) + sum(source.left_out["train"].values()) == 300
        assert source.left_out["test"] == {}
        return [example.id for example in source.splits["train"]]

    everything = [f"f{number}" for number in range(300)]
    sample = sampled("dialogsum")
    assert len(sample) == 30
    assert sample == [name for name in everything if name in sample] != everything[:30]
    assert sample == sampled("dialogsum") == sampled("dialogsum_es") != sampled("dialogsum", seed=43)
    assert everything == sampled("dialogsum", count=300) == sampled("dialogsum", count=None)


# ---- broken files, through the real command


BROKEN = [
    ("dialogsum", b'\n{"fname": "b", "dialogue": "caf\xe9", "summary": "s"}\n', ", line 2: not a JSON object"),
    ("dialogsum", b'\n{"fname": "b", "dialogue": "cut o\n', ", line 2: not a JSON object"),
    ("dialogsum", b'\n{"fname": "b", "dialogue": "d"}\n', ", line 2: expected a text in column 'summary'"),
    ("dialogsum", b'\n["d", "s"]\n', ", line 2: expected a JSON object, found list"),
    ("synthetic_persona_chat", PERSONA + PERSONA_ROW + b"p,q,User 1: caf\xe9\n", ", line 4: not a row of a table"),
    ("synthetic_persona_chat", PERSONA + PERSONA_ROW + b'p,q,"User 1: no end\n', ", line 4: not a row of a table"),
    ("synthetic_persona_chat", PERSONA + PERSONA_ROW + b"p,q\n", ", line 4: expected 3 fields, found 2"),
    ("synthetic_persona_chat", b"a,b\n1,2\n", ", line 2: expected a text in column 'Best Generated Conversation'"),
    ("tedtalks_es", b"en\tes\nHello .\tcaf\xe9\n", ", line 2: not a row of a table"),
    ("tedtalks_es", b"en\tes\nHello .\tHola .\nHello .\n", ", line 3: expected 2 fields, found 1"),
    ("tedtalks_es", b"en\tes\nHello .\tHola .\tSalut .\n", ", line 2: expected 2 fields, found 3"),
    ("tedtalks_es", b"en\tfr\nHello .\tSalut .\n", ", line 2: expected a text in column 'es', it has en, fr"),
    ("content_rephrasing_witty", b"Rephrased Content\ncall mom\ncaf\xe9\n", ", line 3: not a row of a table"),
    ("content_rephrasing_witty", b'Rephrased Content\n"call\nmom\n', ", line 2: not a row of a table"),
    ("content_rephrasing_witty", b"Rephrased Content\tNote\ncall mom\n", ", line 2: expected 2 fields, found 1"),
    ("content_rephrasing_witty", b"Content\ncall mom\n", ", line 2: expected a text in column 'Rephrased Content', it has Content"),
    ("content_rephrasing_witty", b"Rephrased Content\tNote\n \tn\n", ", line 2: expected a text in column 'Rephrased Content'"),
    ("llm_toys_witty", in_json({"original": "x"}), ": expected a list of objects, found dict"),
    ("llm_toys_witty", in_json([tone_entry(0), "text"]), ", entry 2: expected an object, found str"),
    ("llm_toys_witty", in_json([tone_entry(0), tone_entry(1, witty=None)]), ", entry 2: expected a text in column 'witty'"),
    ("llm_toys_witty", in_json([{"original": "x"}]), ", entry 1: expected a text in column 'witty', it has original"),
    ("llm_toys_witty", b'[\n{"original": "caf\xe9"}]', ": not a JSON file"),
    ("llm_toys_witty", b'[\n{"original": "cut o', ": not a JSON file"),
]


@pytest.mark.parametrize(("name", "content", "reason"), BROKEN, ids=[f"{name}{reason}" for name, _, reason in BROKEN])
def test_a_broken_file_is_one_mistake_that_names_file_and_line(name, content, reason, raw, mistakes):
    path = raw / dataset(name, raw).source.files["train"]
    path.write_bytes(content)
    (mistake,) = mistakes("--only", name, "--raw_data_dir", str(raw))
    assert mistake.startswith(f"{path}{reason}")


def truncate(path: Path) -> None:
    write_parquet(path, [{"en": "Hello .", "es": "Hola ."}] * 100)
    path.write_bytes(path.read_bytes()[:-20])


BROKEN_PARQUET = {
    "truncated": truncate,
    "text": lambda path: path.write_text("text"),
    "empty": Path.touch,
    "missing column": lambda path: write_table(path, {"talk_name": ["t"]}),
    "other columns": lambda path: write_table(path, {"translations": ["Hello ."]}),
    "a text too few": lambda path: write_table(path, {"translations": [{"language": ["en", "es"], "translation": ["Hello ."]}]}),
}


@pytest.mark.parametrize("spoil", BROKEN_PARQUET.values(), ids=BROKEN_PARQUET.keys())
def test_a_broken_parquet_file_is_one_mistake_that_names_it(spoil, raw, mistakes):
    path = raw / "plain_text" / "validation" / "0001.parquet"
    write_parquet(path.with_name("0000.parquet"), [{"en": "Hello .", "es": "Hola ."}])
    spoil(path)
    (mistake,) = mistakes("--only", "tedtalks_es", "--raw_data_dir", str(raw))
    assert mistake.startswith(f"{path}")


def test_whole_files_are_no_mistake(raw, workspace):
    names = "dialogsum synthetic_persona_chat tedtalks_es llm_toys_witty"
    run_preparation(f"--only {names} --length_models pocket --raw_data_dir {raw} --workspace {workspace.root}".split())
    assert all((workspace.prepared_data(name) / "preparation.json").is_file() for name in names.split())
    assert dataset("content_rephrasing_witty", raw).read_source("test").examples == [Example("test_0", "Call mom", "Call mom")]


@pytest.mark.parametrize(("file", "content"), [("dialogsum.dev.jsonl", b""), ("dialogsum.test.jsonl", b"\n \n")])
def test_a_source_without_examples_is_said_once(file, content, raw, mistakes):
    (raw / file).write_bytes(content)
    (mistake,) = mistakes("--only", "dialogsum*", "--raw_data_dir", str(raw))
    assert mistake.startswith(f"the {'validation' if 'dev' in file else 'test'} split of DialogSum has no examples")


def test_a_table_without_rows_and_ids_that_stand_twice_are_mistakes(raw, mistakes):
    (raw / "val.tsv").write_text("Rephrased Content\tNote\n")
    (raw / "dialogsum.train.jsonl").write_bytes((raw / "dialogsum.train.jsonl").read_bytes() * 2)
    repeated, empty = mistakes("--only", "content_rephrasing_witty", "dialogsum", "--raw_data_dir", str(raw))
    assert repeated.startswith("the train split of DialogSum has duplicate ids")
    assert empty.startswith("the validation split of Sound Natural has no examples")


def test_missing_files_of_several_sources_are_reported_together(raw, mistakes):
    gone = ["dialogsum.dev.jsonl", "Synthetic-Persona-Chat_test.csv", "all_talks_train.tsv", "val.tsv", "paraphrase_tone.json"]
    for name in gone:
        (raw / name).unlink()
    found = mistakes(
        "--only", "dialogsum*", "synthetic_*", "tedtalks_[def]?", "content_*", "llm_toys_*", "--raw_data_dir", str(raw)
    )
    assert {mistake.split(" is missing")[0] for mistake in found} == {str(raw / name) for name in gone}


def test_all_missing_files_of_a_source_are_reported_together(raw, mistakes):
    gone = [raw / f"dialogsum.{split}.jsonl" for split in ("train", "test")]
    for path in gone:
        path.unlink()
    found = mistakes("--only", "dialogsum*", "--raw_data_dir", str(raw))
    assert [mistake.split(" is missing")[0] for mistake in found] == list(map(str, gone))


# ---- the hub, where there is no network


def test_sources_on_the_hub_are_one_mistake_each_without_a_network(mistakes):
    found = mistakes()
    ids = ("knkarthick/dialogsum", "google/Synthetic-Persona-Chat", "neulab/ted_multi", "facebook/content_rephrasing")
    assert len(found) == len(ids)
    for hub_id, mistake in zip(ids, found, strict=True):
        assert hub_id in mistake
        assert "--raw_data_dir" in mistake


def test_a_source_on_no_hub_asks_for_its_file(mistakes):
    (mistake,) = mistakes("--only", "llm_toys_*")
    assert "paraphrase_tone.json" in mistake
    assert "--raw_data_dir" in mistake


def test_a_source_that_cannot_be_reached_is_asked_for_once(monkeypatch, mistakes):
    asked: Counter[str] = Counter()

    def unreachable(hub_id: str, **options: object) -> None:
        asked[hub_id] += 1
        raise ConnectionError("no network")

    monkeypatch.setattr("datasets.load_dataset", unreachable)
    mistakes("--only", "dialogsum*", "synthetic_*")
    assert asked == {"knkarthick/dialogsum": 1, "google/Synthetic-Persona-Chat": 1}
