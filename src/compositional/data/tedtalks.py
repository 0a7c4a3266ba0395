"""TED talks: English sentences and their translations (Qi et al. 2018), for the translation task.

The copy on the hub is a script, which `datasets` no longer runs, so its parquet conversion is read. The publishers' files are
all_talks_{train,dev,test}.tsv, or the parquet files of the conversion, plain_text/{train,validation,test}/*.parquet. The texts
are tokenized by Moses: its escapes (&apos;) are undone, its spaces before punctuation stay.
"""

from __future__ import annotations

import html
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from compositional.core.errors import UserError, first_line
from compositional.core.files import read_delimited
from compositional.data import (
    Dataset,
    Example,
    Locations,
    Reading,
    Source,
    load_hub_split,
    papers_benchmark,
    published_set,
    source_file,
    text_field,
)
from compositional.tasks import Task, all_tasks

SOURCE = Source(
    title="TED talks",
    hub_id="neulab/ted_multi",
    revision="refs/convert/parquet",
    files={"train": "all_talks_train.tsv", "validation": "all_talks_dev.tsv", "test": "all_talks_test.tsv"},
    columns="a column per language and talk_name; in parquet translations (language, translation) and talk_name",
    example="The one thing that all of them have in common is that they &apos;re going to die . → Todos tienen en común que van a "
    "morir .",
    licence="CC BY-NC-ND 4.0, as TED licenses its talks",
    split_rule="the publishers'; rows that have both languages",
    rows={"train": 258098, "validation": 6049, "test": 7213},
)
_MISSING = ("", "__NULL__", "_ _ NULL _ _")


def datasets(locations: Locations) -> list[Dataset]:
    """A set per target language."""
    translations = [task for task in all_tasks() if task.name == "translation"]
    return [
        published_set(f"tedtalks_{task.variant}", task, SOURCE, locations, partial(read_source, task), papers_benchmark(task))
        for task in translations
    ]


def read_source(task: Task, locations: Locations, split: str) -> Reading:
    """Translated sentences of a split, and the number without translation; raises UserError for missing or invalid data."""
    examples, left_out = [], 0
    for number, pair in enumerate(_pairs(locations, split, task.variant)):
        english, translation = (_unescaped(text).strip() for text in pair)
        if english in _MISSING or translation in _MISSING:
            left_out += 1
        else:
            examples.append(Example(f"{split}_{number}", english, translation))
    return Reading(examples, {f"rows without English or {task.variant}": left_out} if left_out else {})


def _unescaped(text: str) -> str:
    """The text without Moses's escapes; as it is where a number in it is too long to be that of a character."""
    try:
        return html.unescape(text)
    except ValueError:
        return text


def _pairs(locations: Locations, split: str, language: str) -> Iterator[tuple[str, str]]:
    """The English and the translated text of each row; "" for a missing text."""
    if not locations.raw:
        for number, row in enumerate(load_hub_split(SOURCE, split)):
            yield _of_variable_languages(language, f"{SOURCE.hub_id}, {split}, row {number}", row)
        return
    parquet = sorted((locations.raw / "plain_text" / split).glob("*.parquet"))
    if parquet:
        for path in parquet:
            for number, row in enumerate(_parquet_rows(path)):
                yield _of_variable_languages(language, f"{path}, row {number}", row)
        return
    path = source_file(SOURCE, locations, split)
    for line, row in read_delimited(path, delimiter="\t", quoted=False):
        yield tuple(text_field(row, column, f"{path}, line {line}", may_be_blank=True).strip() for column in ("en", language))


def _of_variable_languages(language: str, place: str, row: dict) -> tuple[str, str]:
    translations = row.get("translations")
    try:
        texts = dict(zip(translations["language"], translations["translation"], strict=True))
        # str.strip refuses what is no text, such as a number or bytes.
        return tuple(str.strip(texts.get(name) or "") for name in ("en", language))
    except (TypeError, KeyError, ValueError) as error:
        raise UserError(f"{place}: expected translations with a language for each text, found {translations!r}"[:300]) from error


def _parquet_rows(path: Path) -> Iterator[dict]:
    import pyarrow
    import pyarrow.parquet

    try:
        for batch in pyarrow.parquet.ParquetFile(path).iter_batches():
            yield from batch.to_pylist()
    except (OSError, UnicodeDecodeError, pyarrow.ArrowException) as error:
        raise UserError(f"{path}: not a parquet file of TED talks ({first_line(error)}); fetch it again") from error
