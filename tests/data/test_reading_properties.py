"""Any file of rows is read whole or refused with its line: encodings, line ends, quotes, control characters, garbage."""

from __future__ import annotations

import csv
import html
import io
import json
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from compositional.core.files import read_delimited, read_json, read_json_lines, read_tensor_shapes
from compositional.data import Dataset, Example, Locations, all_datasets, read_saved, synthetic_persona_chat
from helpers.properties import result_or_mistakes

ENCODINGS = st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "latin-1", "cp1252"])
SPECIAL = "\"'\\,;\t\r\n\0\x0b\x0c\x1a\x1c\x85\u2028\ufeff\xa0&<é€ß你🎉"
CHARACTERS = st.one_of(st.sampled_from(SPECIAL), st.characters(exclude_categories=["Cs"], max_codepoint=0x2FFF))
TEXTS = st.text(CHARACTERS, max_size=12)
# What JSON can write and a text of a data set can't be: numbers, lists, and halves of characters.
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=6), st.just("\ud800")),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=3)),
    max_leaves=6,
)
FIELDS = st.one_of(st.just("Hi."), st.just("\ud800"), VALUES)
NUMBERS = count()


@pytest.fixture
def written(tmp_path) -> Callable[[bytes], Path]:
    """Writes a file of its own for each case."""

    def write(content: bytes) -> Path:
        path = tmp_path / f"{next(NUMBERS)}.txt"
        path.write_bytes(content)
        return path

    return write


def check_refused_with_its_line(mistakes: list[str], path: Path) -> None:
    (line,) = mistakes
    assert line.startswith(f"{path}, line ")
    assert int(line.removeprefix(f"{path}, line ").split(":")[0]) >= 1


def is_taken_for_another_text(text: str, encoding: str) -> bool:
    """Bytes of one encoding can be a text in UTF-8, too; no reader can tell."""
    try:
        return text.encode(encoding).decode("utf-8-sig").replace("\ufeff", "") != text.replace("\ufeff", "")
    except UnicodeDecodeError:
        return False


def encoded(text: str, encoding: str) -> bytes:
    try:
        return text.encode(encoding)
    except UnicodeEncodeError:
        assume(False)


# ---- JSON Lines


@example(rows=[], encoding="utf-8-sig", end="\n", ascii_only=False)  # a byte order mark, and nothing else
@given(
    rows=st.lists(st.dictionaries(TEXTS, VALUES, max_size=3), max_size=5),
    encoding=ENCODINGS,
    end=st.sampled_from(["\n", "\r\n", "\r", "\n\n", " \n"]),
    ascii_only=st.booleans(),
)
def test_json_lines_are_read_whole_or_refused_with_the_line(rows, encoding, end, ascii_only, written):
    text = "".join(json.dumps(row, ensure_ascii=ascii_only) + end for row in rows)
    content = encoded(text, encoding)
    assume(not is_taken_for_another_text(text, encoding))
    assume("\ufeff" not in text)  # joined files have byte order marks within, which are no text
    path = written(content)
    found, mistakes = result_or_mistakes(lambda: list(read_json_lines(path)))
    if mistakes:
        check_refused_with_its_line(mistakes, path)
        assert encoding not in ("utf-8", "utf-8-sig") or end == "\r", "a file that is right is refused"
    else:
        assert [row for _, row in found] == rows
        assert [line for line, _ in found] == [number * end.count("\n") + 1 for number in range(len(rows))] or end == "\r"


FRAGMENTS = st.one_of(
    st.binary(max_size=12),
    st.sampled_from(
        [b"{", b"}", b'{"a": ', b'"', b"[" * 100_000, b'{"a":' * 100_000, b"1" * 5000, b"\n", b"\r", b",", b"\t", b"\\"]
    ),
    st.sampled_from([b"\xef\xbb\xbf", b"\xff\xfe", b"null", b"NaN", b"1e999", b"\0", b'{"a": 1}\n', b"a,b\n", b"a\tb\n", b'""']),
)


@given(content=st.lists(FRAGMENTS, max_size=6).map(b"".join))
def test_any_bytes_are_rows_or_refused_with_their_line(content, written):
    path = written(content)
    for read in (
        read_json_lines,
        read_delimited,
        lambda path: read_delimited(path, delimiter="\t"),
        lambda path: read_delimited(path, delimiter="\t", quoted=False),
    ):
        _, mistakes = result_or_mistakes(lambda read=read: list(read(path)))
        if mistakes:
            check_refused_with_its_line(mistakes, path)


@given(content=st.lists(FRAGMENTS, max_size=6).map(b"".join))
def test_any_bytes_are_json_or_refused_with_their_file(content, written):
    path = written(content)
    _, mistakes = result_or_mistakes(read_json, path)
    assert all(mistake.startswith(f"{path}: not a JSON file") for mistake in mistakes)


HEADERS = st.dictionaries(
    st.sampled_from(["one", "two", "__metadata__"]),
    st.one_of(
        VALUES, st.fixed_dictionaries({"shape": VALUES, "data_offsets": st.one_of(VALUES, st.just([0, 4]), st.just([0, "4"]))})
    ),
    max_size=3,
)


@given(header=st.one_of(HEADERS.map(json.dumps), st.just("[" * 100_000)))
def test_any_header_of_tensors_gives_their_shapes_or_is_refused(header, written):
    path = written(len(header).to_bytes(8, "little") + header.encode() + b"\0" * 4)
    shapes, mistakes = result_or_mistakes(read_tensor_shapes, path)
    assert all(mistake.startswith(f"{path} is damaged: ") for mistake in mistakes)
    if not mistakes:
        assert all(isinstance(size, int) for shape in shapes.values() for size in shape)


# ---- tables


@st.composite
def tables(draw: st.DrawFn, cells: st.SearchStrategy[str]) -> list[list[str]]:
    """A header of different names, and rows."""
    header = draw(st.lists(cells.filter(bool), min_size=2, max_size=4, unique=True))
    return [header, *draw(st.lists(st.lists(cells, min_size=len(header), max_size=len(header)), max_size=4))]


@given(
    table=tables(TEXTS),
    encoding=ENCODINGS,
    delimiter=st.sampled_from(",\t;"),
    end=st.sampled_from(["\n", "\r\n", "\r"]),
    quoting=st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL]),
)
def test_a_table_is_read_whole_or_refused_with_the_line(table, encoding, delimiter, end, quoting, written):
    out = io.StringIO()
    csv.writer(out, delimiter=delimiter, quoting=quoting, lineterminator=end).writerows(table)
    content = encoded(out.getvalue(), encoding)
    assume(not is_taken_for_another_text(out.getvalue(), encoding))
    assume(not (encoding == "utf-8" and table[0][0].startswith("\ufeff")))
    path = written(content)
    found, mistakes = result_or_mistakes(lambda: list(read_delimited(path, delimiter)))
    if mistakes:
        check_refused_with_its_line(mistakes, path)
        whole = encoding in ("utf-8", "utf-8-sig") and end != "\r" and quoting == csv.QUOTE_ALL
        assert not whole, "a file that is right is refused"
    else:
        assert [list(row.values()) for _, row in found] == table[1:]
        assert all(list(row) == table[0] for _, row in found)


@given(table=tables(st.text(CHARACTERS.filter(lambda one: one not in "\t\r\n"), max_size=12)), end=st.sampled_from(["\n", "\r\n"]))
def test_a_table_without_quotes_is_read_as_it_stands(table, end, written):
    assume(not table[0][0].startswith("\ufeff"))
    path = written("".join("\t".join(row) + end for row in table).encode())
    found = list(read_delimited(path, "\t", quoted=False))
    assert [list(row.values()) for _, row in found] == table[1:]
    assert [line for line, _ in found] == list(range(2, len(table) + 1))


@given(table=tables(TEXTS), again=st.integers(0, 3))
def test_a_table_with_a_column_twice_is_refused_since_one_would_be_lost(table, again, written):
    place = again % len(table[0])
    out = io.StringIO()
    csv.writer(out, quoting=csv.QUOTE_ALL).writerows([*row, row[place]] for row in table)
    path = written(out.getvalue().encode("utf-8-sig"))
    _, mistakes = result_or_mistakes(lambda: list(read_delimited(path)))
    check_refused_with_its_line(mistakes, path)
    assert f"column {table[0][place]!r}" in mistakes[0]


# ---- the sources


def sets_of(raw: Path) -> dict[str, Dataset]:
    return all_datasets(Locations(raw / "none", raw))


def check_reading(dataset: Dataset, raw: Path) -> list[Example] | None:
    """The examples of each split are texts that records can hold; or the mistake names a file and a place in it."""
    reading, mistakes = result_or_mistakes(dataset.read_source, "train")
    if mistakes:
        assert all(str(raw) in mistake for mistake in mistakes)
        return None
    for one in reading.examples:
        (one.id + one.input + one.reference).encode()
        assert one.input.strip()
    return reading.examples


def json_lines(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


@pytest.fixture
def raw(tmp_path) -> Iterator[Callable[[], Path]]:
    def folder() -> Path:
        path = tmp_path / f"raw{next(NUMBERS)}"
        path.mkdir()
        return path

    return folder


@given(
    rows=st.lists(
        st.fixed_dictionaries({}, optional=dict.fromkeys(["fname", "dialogue", "summary", "summary1"], FIELDS)), max_size=3
    )
)
def test_dialogues_of_any_values_are_examples_or_refused(rows, raw):
    folder = raw()
    (folder / "dialogsum.train.jsonl").write_bytes(json_lines(rows))
    examples = check_reading(sets_of(folder)["dialogsum"], folder)
    if examples is not None:
        assert [(one.input, one.reference) for one in examples] == [
            (row["dialogue"], row.get("summary1", row.get("summary"))) for row in rows
        ]


@given(
    rows=st.one_of(VALUES, st.lists(st.fixed_dictionaries({}, optional=dict.fromkeys(["original", "casual"], FIELDS)), max_size=3))
)
def test_toned_sentences_of_any_values_are_examples_or_refused(rows, raw):
    folder = raw()
    (folder / "paraphrase_tone.json").write_text(json.dumps(rows))
    check_reading(sets_of(folder)["llm_toys_casual"], folder)


CELLS = st.one_of(
    TEXTS, st.sampled_from(["&apos;", "&#0;", f"&#{'9' * 5000};", "&nbsp;", "__NULL__", "User 1: Hi!\nUser 2: Hello."])
)


@given(table=tables(CELLS), source=st.sampled_from(["content_rephrasing_witty", "synthetic_persona_chat", "tedtalks_es"]))
def test_tables_of_any_texts_are_examples_or_refused(table, source, raw):
    folder = raw()
    names = {"content_rephrasing_witty": "Rephrased Content", "synthetic_persona_chat": "Best Generated Conversation"}
    files = {"content_rephrasing_witty": "train.tsv", "synthetic_persona_chat": "Synthetic-Persona-Chat_train.csv"}
    header = ["en", "es"] if source == "tedtalks_es" else [names[source], "other"]
    out = io.StringIO()
    writer = csv.writer(out, delimiter="," if source == "synthetic_persona_chat" else "\t", quoting=csv.QUOTE_ALL)
    writer.writerows([header, *(row[:2] for row in table[1:])])
    text = out.getvalue() if source != "tedtalks_es" else out.getvalue().replace('"', "")
    (folder / files.get(source, "all_talks_train.tsv")).write_bytes(text.encode())
    check_reading(sets_of(folder)[source], folder)


LISTS = st.one_of(
    st.none(), st.lists(TEXTS, max_size=3), st.lists(st.integers(0, 9), max_size=3), st.just([b"\xff", b"a"]), st.just([["a"]])
)


@given(languages=st.one_of(st.just(["en", "es"]), LISTS), translations=LISTS, column=st.sampled_from(["translations", "other"]))
def test_parquet_files_of_any_columns_are_examples_or_refused(languages, translations, column, raw):
    folder = raw()
    (folder / "plain_text" / "train").mkdir(parents=True)
    table = pyarrow.table({column: [{"language": languages, "translation": translations}]})
    pyarrow.parquet.write_table(table, folder / "plain_text" / "train" / "0.parquet")
    examples = check_reading(sets_of(folder)["tedtalks_es"], folder)
    if examples:
        assert [(one.input, one.reference) for one in examples] == [tuple(html.unescape(text).strip() for text in translations)]


@given(content=st.binary(max_size=64))
def test_any_bytes_as_a_parquet_file_are_refused(content, raw):
    folder = raw()
    (folder / "plain_text" / "train").mkdir(parents=True)
    (folder / "plain_text" / "train" / "0.parquet").write_bytes(content)
    assert check_reading(sets_of(folder)["tedtalks_es"], folder) is None


@given(conversations=st.lists(TEXTS, min_size=3, max_size=6))
def test_conversations_that_are_split_over_files_are_the_same_conversations(conversations, written, raw):
    folder, out = raw(), io.StringIO()
    csv.writer(out, quoting=csv.QUOTE_ALL).writerows([["number", "Best Generated Conversation"], *enumerate(conversations)])
    path = written(out.getvalue().encode())
    rows = [row for _, row in read_delimited(path)]
    assert [row["Best Generated Conversation"] for row in rows] == conversations
    synthetic_persona_chat.split_conversations(path, folder, test=1, validation=1)
    parts = [row for one in sorted(folder.iterdir()) for _, row in read_delimited(one)]
    assert sorted(parts, key=lambda row: int(row["number"])) == rows


@pytest.fixture
def prepared(copied) -> Path:
    return copied.prepared_data("pocket_sentences_witty")


@given(
    name=st.sampled_from(["dataset_dict.json", "train/dataset_info.json", "train/state.json", "train/data-00000-of-00001.arrow"]),
    place=st.floats(0, 1, exclude_max=True),
    bit=st.integers(0, 7),
)
def test_a_prepared_set_with_a_wrong_bit_is_read_right_or_refused(name, place, bit, prepared):
    path, whole = prepared / name, read_saved(prepared, "train")
    content = path.read_bytes()
    number = int(place * len(content))
    try:
        path.write_bytes(content[:number] + bytes([content[number] ^ 1 << bit]) + content[number + 1 :])
        rows, mistakes = result_or_mistakes(read_saved, prepared, "train")
    finally:
        path.write_bytes(content)
    assert rows == whole if not mistakes else all(str(prepared) in mistake for mistake in mistakes)
