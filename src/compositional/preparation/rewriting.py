"""The rewritten targets of a set: made batch by batch, longest texts first, and kept, so that no text is rewritten twice."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from compositional.core.errors import UserError
from compositional.core.files import hash_of_json, read_json_lines, write_json, write_text
from compositional.core.recorded import changes, read_recorded
from compositional.core.resumable import chunks, complete_rows, line_of, partial_of, rows_of_whole_lines
from compositional.preparation.text_models import TextModel

logger = logging.getLogger(__name__)

Rows = dict[str, dict[str, Any]]


def rewritten_texts(
    path: Path, texts: Iterable[str], model: TextModel, identity: dict[str, Any], batch_size: int | None, description: str
) -> dict[str, str]:
    """What the model makes of each different text.

    Rows (id, source, target) are kept at `path`, and what made them beside it; only texts that have no row yet are rewritten.
    Batches are of similar length, the longest texts first, and the same in every run of the same call, so that an interrupted run
    ends in the same rows. The rows of another text model are put aside, and come back with it.
    """
    wanted = {_id_of(text): text for text in sorted(set(texts), key=lambda text: (-len(text), text))}
    made_with = {"text_model": identity, "texts": hash_of_json(list(wanted))}
    _bring_rows(path, made_with, description)
    rows = _rows_of(path)
    missing = {id: text for id, text in wanted.items() if id not in rows}
    if missing:
        rows |= _make(path, rows, missing, model, made_with, batch_size, description)
    return {text: rows[id]["target"] for id, text in wanted.items()}


def has_all(path: Path, texts: Iterable[str], identity: dict[str, Any]) -> bool:
    """Whether nothing has to be rewritten: the rows of all texts are there, by this text model."""
    made_with = settings_of(path)
    return bool(made_with) and not changes(made_with, {"text_model": identity}) and set(map(_id_of, texts)) <= _rows_of(path).keys()


def settings_of(path: Path) -> dict[str, Any]:
    """What made the rows at a path."""
    return read_recorded(_settings(path))


def forget_rewritten(path: Path) -> None:
    """Remove the rows at a path, finished or not."""
    for old in (path, partial_of(path), _more(path), partial_of(_more(path)), _settings(path)):
        old.unlink(missing_ok=True)


def _make(
    path: Path,
    kept: Rows,
    missing: dict[str, str],
    model: TextModel,
    made_with: dict[str, Any],
    batch_size: int | None,
    description: str,
) -> Rows:
    """Rewrite the missing texts, in a file of their own where others are kept, and put all rows into the file at `path`."""
    size = batch_size or model.batch_size
    batches = chunks(list(missing), size)

    def start() -> None:
        model.start()
        now, earlier = {"batch_size": size} | model.loaded(), settings_of(path).get("made_by", [])
        write_json(_settings(path), made_with | {"made_by": earlier if now in earlier else [*earlier, now]})

    def make_rows(ids: list[str]) -> list[dict[str, Any]]:
        sources = [missing[id] for id in ids]
        try:
            targets = model.rewrite(sources)
        except RuntimeError as error:
            if type(error).__name__ != "OutOfMemoryError":
                raise
            raise UserError(f"{description}: out of memory with {len(sources)} texts: take a smaller --batch_size") from error
        return [{"id": id, "source": source, "target": target} for id, source, target in zip(ids, sources, targets, strict=True)]

    def left(done: set[str]) -> list[list[str]]:
        return [batch for batch in batches if not done.issuperset(batch)]

    write_json(_settings(path), settings_of(path) | made_with)
    file = _more(path) if kept else path
    made = {row["id"]: row for row in complete_rows(file, list(missing), left, start, make_rows, description)}
    if kept:
        write_text(path, "".join(map(line_of, (kept | made).values())))
        file.unlink()
    return made


def _bring_rows(path: Path, made_with: dict[str, Any], description: str) -> None:
    """See to it that what is at `path` was made by this text model, and that no unfinished rows are of other texts."""
    earlier = settings_of(path)
    if path.is_file() and not earlier:
        raise UserError(f"{path} has rows, and {_settings(path).name}, which says what made them, is missing: remove the file")
    changed = changes(earlier, made_with)
    if "text_model" in changed:
        logger.info("%s: made anew by another text model; the earlier texts are kept beside the new ones", description)
        _absorb(path)
        for file in (path, _settings(path)):
            if file.is_file():
                file.rename(_aside(file, earlier["text_model"]))
        for file in (_settings(path), path):  # rows are never without what says who made them
            if (kept := _aside(file, made_with["text_model"])).is_file():
                kept.rename(file)
    elif "texts" in changed:
        _absorb(path)


def _absorb(path: Path) -> None:
    """Put the rows of an unfinished making into the finished file."""
    files = [path, partial_of(path), _more(path), partial_of(_more(path))]
    rows: Rows = {}
    for file in filter(Path.is_file, files):
        rows |= _rows_of(file)
    if rows:
        write_text(path, "".join(map(line_of, rows.values())))
    for file in files[1:]:
        file.unlink(missing_ok=True)


def _rows_of(path: Path) -> Rows:
    """The rows by id of a file, finished or not, as its name says; none if there is no file. Raises UserError for a broken line."""
    if not path.is_file():
        return {}
    unfinished = path.suffix == ".partial"
    numbered = enumerate(rows_of_whole_lines(path).values(), start=1) if unfinished else read_json_lines(path)
    rows = {}
    for number, row in numbered:
        if not {"id", "source", "target"} <= row.keys():
            raise UserError(f"{path}, line {number}: expected id, source and target; remove the file to rewrite its texts")
        rows[row["id"]] = row
    return rows


def _id_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def _more(path: Path) -> Path:
    return path.with_suffix(".more.jsonl")


def _settings(path: Path) -> Path:
    return path.with_suffix(".settings.json")


def _aside(path: Path, identity: dict[str, Any]) -> Path:
    """Where a file of another text model is kept."""
    return path.with_name(f"{hash_of_json(identity)[:12]}.{path.name}")
