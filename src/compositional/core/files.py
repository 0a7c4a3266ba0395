"""Atomic writes (a file is complete or absent), hashes, JSON lines and tables with line numbers, and tensor headers."""

from __future__ import annotations

import codecs
import csv
import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from compositional.core.errors import UserError, first_line


def write_text(path: Path, text: str) -> None:
    """Write to a temporary name in the same folder, then rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".unfinished")
    try:
        with open(unfinished, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    except BaseException as error:
        if isinstance(error, OSError):
            error.filename = error.filename or str(path)
        unfinished.unlink(missing_ok=True)
        raise
    unfinished.replace(path)


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON; see `write_text`."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=2) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file; raises UserError for invalid JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not a JSON file ({error})") from error


@contextmanager
def folder_in_the_making(folder: Path) -> Iterator[Path]:
    """A temporary folder beside `folder`, which replaces it when the block ends without an error, and else is deleted.

    A folder that an earlier process moved aside, and was killed before it put the new one in its place, comes back first.
    """
    unfinished, replaced = folder.with_name(f".{folder.name}.unfinished"), folder.with_name(f".{folder.name}.replaced")
    if os.path.lexists(replaced) and not os.path.lexists(folder):
        replaced.rename(folder)
    remove(replaced)
    remove(unfinished)
    unfinished.mkdir(parents=True)
    try:
        yield unfinished
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    if os.path.lexists(folder):
        folder.rename(replaced)
    _give_usual_permissions(unfinished)
    unfinished.rename(folder)
    remove(replaced)


def _give_usual_permissions(folder: Path) -> None:
    """Give new files the permissions that the user's umask gave their folder. The library of safetensors makes them private."""
    usual = folder.stat().st_mode & 0o666
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink() and path.stat().st_mode & 0o777 != usual:
            path.chmod(usual)


def remove(path: Path) -> None:
    """Delete a file or a folder, if there is one; of a link, the link alone."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def lies_in(path: Path, folder: Path) -> bool:
    """Whether `remove(folder)` would delete a path, or a link that it leads through."""
    doomed = folder.parent.resolve() / folder.name
    places = [path.resolve(), *(place.parent.resolve() / place.name for place in (path, *path.parents))]
    return any(place == doomed or doomed in place.parents for place in places)


def read_json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line numbers and objects of a JSON-lines file; raises UserError with file and line for an invalid line."""
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.removeprefix(codecs.BOM_UTF8).strip():
                continue
            try:
                value = json.loads(line.decode("utf-8-sig"))  # files that are joined have their marks within
            except (ValueError, RecursionError) as error:
                raise UserError(f"{path}, line {number}: not a JSON object ({error}); mend or remove the line") from error
            if not isinstance(value, dict):
                raise UserError(f"{path}, line {number}: expected a JSON object, found {type(value).__name__}")
            yield number, value


def read_delimited(path: Path, delimiter: str = ",", quoted: bool = True) -> Iterator[tuple[int, dict[str, str]]]:
    """Line numbers and rows of a table with a header; a quoted field may hold line breaks.

    Raises UserError with file and line for an invalid row, one that has more or fewer fields than the header, and a header that
    has a name twice.
    """
    quoting = csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
    with open(path, "rb") as file:
        # Decoded line by line, so that an invalid byte is reported with its line.
        lines = (line.decode("utf-8-sig" if number == 0 else "utf-8") for number, line in enumerate(file))
        reader = csv.reader(lines, delimiter=delimiter, quoting=quoting, strict=True)
        header: list[str] = []
        while True:
            start = reader.line_num + 1
            try:
                fields = next(reader, None)
            except (csv.Error, UnicodeDecodeError) as error:
                raise UserError(f"{path}, line {start}: not a row of a table ({error}); mend or remove it") from error
            if fields is None:
                return
            if header and fields and len(fields) != len(header):
                raise UserError(f"{path}, line {start}: expected {len(header)} fields, found {len(fields)}; mend or remove the row")
            if header and fields:
                yield start, dict(zip(header, fields, strict=True))
            if not header and (twice := [name for name in fields if name and fields.count(name) > 1]):
                raise UserError(f"{path}, line {start}: the header has the column {twice[0]!r} twice; rename or remove one")
            header = header or fields


def hash_of_json(value: Any) -> str:
    """SHA-256 of a value's canonical JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode(errors="surrogatepass")).hexdigest()


def hash_of_files(paths: list[Path]) -> str:
    """SHA-256 over names and contents of files, in the order given."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.name.encode())
        with open(path, "rb") as file:
            while chunk := file.read(1 << 22):
                digest.update(chunk)
    return digest.hexdigest()


def read_tensor_shapes(path: Path) -> dict[str, list[int]]:
    """The shape of each tensor in a safetensors file; raises UserError when the file is damaged or truncated."""
    return _read_header(path)[0]


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata in a safetensors file's header; raises UserError when the file is damaged or truncated."""
    return _read_header(path)[1]


def _read_header(path: Path) -> tuple[dict[str, list[int]], dict[str, str]]:
    """The shapes and the metadata, read by the library of safetensors without any values."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "np") as file:
            return {name: list(file.get_slice(name).get_shape()) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except SafetensorError as error:
        raise UserError(f"{path} is damaged: {first_line(error)}") from error


def count_parameters(path: Path) -> int:
    """The number of parameters in a safetensors file, from its header; raises UserError for a damaged file."""
    return sum(math.prod(shape) for shape in read_tensor_shapes(path).values())
