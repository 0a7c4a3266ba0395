"""A file of JSON lines that is made batch by batch, and goes on where an interrupted run stopped."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from src.files import read_json_lines, write_text

logger = logging.getLogger(__name__)


def complete_rows(
    path: Path,
    ids: list[str],
    batches: list[list[str]],
    make_rows: Callable[[list[str]], list[dict[str, Any]]],
    description: str,
) -> list[dict[str, Any]]:
    """One row per id, in their order, and in the file `path` once all are made.

    Each finished batch is appended to `path`.partial; a run that finds such a file keeps its whole batches. A row has its id under
    "id".
    """
    from tqdm import tqdm

    if path.is_file():
        return [row for _, row in read_json_lines(path)]
    partial = path.with_name(path.name + ".partial")
    rows = _whole_batches(partial, batches)
    write_text(partial, "".join(map(line_of, rows.values())))
    remaining = [batch for batch in batches if batch[0] not in rows]
    if remaining:
        with open(partial, "a", encoding="utf-8") as file, tqdm(total=len(ids), initial=len(rows), desc=description) as bar:
            for batch in remaining:
                made = make_rows(batch)
                file.write("".join(map(line_of, made)))
                file.flush()
                os.fsync(file.fileno())
                rows |= {row["id"]: row for row in made}
                bar.update(len(batch))
    logger.debug("%s: %d in all, %d made before", description, len(ids), len(ids) - sum(map(len, remaining)))
    in_order = [rows[id] for id in ids]
    write_text(path, "".join(map(line_of, in_order)))
    partial.unlink()
    return in_order


def line_of(row: dict[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"


def _whole_batches(path: Path, batches: list[list[str]]) -> dict[str, dict[str, Any]]:
    """Rows, by id, of the batches that an interrupted run finished. Only the file's last line may be broken."""
    if not path.is_file():
        return {}
    lines = path.read_bytes().split(b"\n")[:-1]
    found = {row["id"]: row for row in map(json.loads, lines)}
    whole = [batch for batch in batches if all(id in found for id in batch)]
    return {id: found[id] for batch in whole for id in batch}
