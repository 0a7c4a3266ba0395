"""The rewritten targets of a set: made batch by batch, longest texts first, kept in a file that an interrupted run goes on from."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from src.errors import UserError
from src.files import read_json, write_json
from src.resumable import chunks, complete_rows, partial_of
from src.text_models import TextModel

logger = logging.getLogger(__name__)


def rewritten_texts(
    path: Path, texts: Iterable[str], model: TextModel, made_with: dict[str, Any], batch_size: int | None, description: str
) -> dict[str, str]:
    """What the model makes of each different text.

    Rows (id, source, target) go to `path`, and `made_with` beside it; rows that were made with something else are made anew.
    Batches are of similar length, the longest texts first, and always the same, so that an interrupted run ends in the same rows.
    """
    by_id = {_id_of(text): text for text in sorted(set(texts), key=lambda text: (-len(text), text))}
    settings = path.with_suffix(".settings.json")
    if settings.is_file() and read_json(settings) != made_with:
        logger.info("%s: made anew, for it was made with other texts or another text model", description)
        forget_rewritten(path)
    write_json(settings, made_with)
    batches = chunks(list(by_id), batch_size or model.batch_size)

    def make_rows(ids: list[str]) -> list[dict[str, Any]]:
        sources = [by_id[id] for id in ids]
        try:
            targets = model.rewrite(sources)
        except RuntimeError as error:
            if type(error).__name__ != "OutOfMemoryError":
                raise
            raise UserError(f"{description}: out of memory with {len(sources)} texts: take a smaller --batch_size") from error
        return [{"id": id, "source": source, "target": target} for id, source, target in zip(ids, sources, targets, strict=True)]

    rows = complete_rows(
        path,
        list(by_id),
        lambda done: [batch for batch in batches if not done.issuperset(batch)],
        model.start,
        make_rows,
        description,
    )
    return {row["source"]: row["target"] for row in rows}


def forget_rewritten(path: Path) -> None:
    """Remove the rows at a path, finished or not."""
    for old in (path, partial_of(path), path.with_suffix(".settings.json")):
        old.unlink(missing_ok=True)


def _id_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:24]
