"""A JSON-lines file that is written batch by batch and resumes where an interrupted run stopped.

Until it is whole, each line ends with a checksum of its row (CRC-32), so that a row that has changed is refused.
"""

from __future__ import annotations

import json
import logging
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from compositional.core.errors import UserError
from compositional.core.files import read_json_lines, write_text

logger = logging.getLogger(__name__)
Thing = TypeVar("Thing")


def complete_rows(
    path: Path,
    ids: list[str],
    batches_of: Callable[[set[str]], list[list[str]]],
    start: Callable[[], object],
    make_rows: Callable[[list[str]], list[dict[str, Any]]],
    description: str,
) -> list[dict[str, Any]]:
    """Return one row per id, in the order of `ids`; write them to `path` once all are complete.

    Each finished batch is appended to `path`.partial, from which a later run resumes. A row has its id under "id".

    Args:
        batches_of: returns the remaining batches for the set of ids that have a row; rows of ids in these batches are made again.
        start: called once before the first batch, and not at all when no batch remains.
    """
    from tqdm import tqdm

    if path.is_file():
        return [row for _, row in read_json_lines(path)]
    partial = partial_of(path)
    requested = set(ids)
    recorded = {id: row for id, row in rows_of_whole_lines(partial).items() if id in requested}
    batches = batches_of(set(recorded))
    again = {id for batch in batches for id in batch}
    rows = {id: row for id, row in recorded.items() if id not in again}
    write_text(partial, "".join(map(_checked_line_of, rows.values())))
    logger.debug("%s: %d in all, %d from an earlier run", description, len(ids), len(rows))
    if batches:
        start()
        with open(partial, "a", encoding="utf-8") as file, tqdm(total=len(ids), initial=len(rows), desc=description) as bar:
            for batch in batches:
                new_rows = make_rows(batch)
                file.write("".join(map(_checked_line_of, new_rows)))
                file.flush()
                os.fsync(file.fileno())
                rows |= {row["id"]: row for row in new_rows}
                bar.update(len(batch))
    in_order = [rows[id] for id in ids]
    write_text(path, "".join(map(line_of, in_order)))
    partial.unlink()
    return in_order


def chunks(things: list[Thing], size: int) -> list[list[Thing]]:
    """The things in their order, `size` at a time."""
    return [things[start : start + size] for start in range(0, len(things), size)]


def partial_of(path: Path) -> Path:
    """The path of the rows of an unfinished file."""
    return path.with_name(path.name + ".partial")


def has_rows(path: Path) -> bool:
    """Whether a file, complete or partial, has any rows."""
    partial = partial_of(path)
    return path.is_file() or (partial.is_file() and partial.stat().st_size > 0)


def line_of(row: dict[str, Any]) -> str:
    """A row as a line of JSON."""
    return json.dumps(row, ensure_ascii=False) + "\n"


_CHECKSUM = "crc32"


def _checked_line_of(row: dict[str, Any]) -> str:
    return line_of(row | {_CHECKSUM: zlib.crc32(line_of(row).encode())})


def rows_of_whole_lines(path: Path) -> dict[str, dict[str, Any]]:
    """Rows by id of an unfinished file, without an incomplete last line; raises UserError for a line that was changed."""
    if not path.is_file():
        return {}
    rows = {}
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], start=1):
        try:
            row = json.loads(line)
            checksum = row.pop(_CHECKSUM, None)
            if checksum not in (None, zlib.crc32(line_of(row).encode())):
                raise ValueError("another checksum")
            rows[row["id"]] = row
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise UserError(f"{path}, line {number}: not a row of this file; remove the line, and it is made again") from error
    return rows
