"""A prepared set's folder: the examples as `datasets` saves them, and the record of what they were made from."""

from __future__ import annotations

import ast
import hashlib
import inspect
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from src.data import RECORD_FILE, SPLITS, is_saved
from src.errors import UserError, first_line
from src.files import folder_in_the_making, read_json, write_json
from src.preparation.quality import PreparedExample


def save_set(folder: Path, splits: dict[str, list[PreparedExample]], record: dict[str, Any]) -> None:
    """Write a set's folder as a whole: columns id, input, target, findings, and source where targets were made from one."""
    from datasets import Dataset, DatasetDict, Features, List, Value

    is_rewritten = any(example.source is not None for examples in splits.values() for example in examples)
    columns = ["id", "input", "target", *(["source"] if is_rewritten else [])]
    features = Features({name: Value("string") for name in columns} | {"findings": List(Value("string"))})
    saved = {
        split: Dataset.from_dict(
            {name: [getattr(example, name) for example in examples] for name in columns}
            | {"findings": [list(example.findings) for example in examples]},
            features=features,
        )
        for split, examples in splits.items()
    }
    with folder_in_the_making(folder) as unfinished:
        DatasetDict(saved).save_to_disk(str(unfinished))
        write_json(unfinished / RECORD_FILE, record)


def read_back(folder: Path) -> dict[str, list[PreparedExample]]:
    """The examples of a saved set, by split."""
    import pyarrow
    from datasets import load_from_disk

    try:
        return {
            split: [PreparedExample(**(row | {"findings": tuple(row["findings"])})) for row in rows]
            for split, rows in load_from_disk(str(folder)).items()
        }
    except (OSError, ValueError, TypeError, KeyError, pyarrow.ArrowException) as error:
        raise UserError(f"{folder} is damaged ({first_line(error)}): --overwrite makes it anew") from error


def record_of(folder: Path) -> dict[str, Any] | None:
    """The record of a whole set that the preparation saved; None otherwise, also for a damaged record."""
    path = folder / RECORD_FILE
    is_whole = is_saved(folder) and all((folder / split / "state.json").is_file() for split in SPLITS)
    if not (is_whole and path.is_file()):
        return None
    try:
        record = read_json(path)
    except UserError:
        return None
    return record if isinstance(record, dict) and {"fingerprint", "made_from", "counts", "findings"} <= record.keys() else None


def changes(earlier: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """The names of what a set was made from that have changed since."""
    return sorted(key for key in earlier.keys() | now.keys() if earlier.get(key) != now.get(key))


@cache
def hash_of_code(*modules: ModuleType) -> str:
    """SHA-256 of modules' code; comments, docstrings and layout don't count."""
    digest = hashlib.sha256()
    for module in modules:
        tree = ast.parse(inspect.getsource(module))
        for node in ast.walk(tree):
            body = getattr(node, "body", None)
            if isinstance(body, list) and body and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
                node.body = body[1:] or [ast.Pass()]
        digest.update(ast.unparse(tree).encode())
    return digest.hexdigest()
