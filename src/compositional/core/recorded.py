"""Settings recorded beside each artefact, and whether a command that resumes from it has the same settings.

Adapters, predictions, verdicts and rewritten texts share this check. If a record lacks a key, because an older version had no
such flag, the key counts as the value that the flag has when it is omitted.

A record carries the SHA-256 of its own content, and those of the files that it describes, so that a file that has changed since, by
a failing disk or by hand, is refused instead of used. Records of older versions carry none and are not checked.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from compositional.core.errors import UserError
from compositional.core.files import hash_of_files, hash_of_json, read_json, write_json

# The version of the arithmetic. It rises when the same settings give other values, beyond rounding; CHANGELOG.md says why. Records
# without a version are of version 1. Finished artefacts of another version are kept, and results name all versions behind them.
ARITHMETIC = 2

# What `value_if_left_out` returns for a key that is not a flag. A record that lacks the key is then not compared by it.
NO_FLAG = object()
ValueIfLeftOut = Callable[[str], Any]


_OWN_HASH = "sha256_of_this_record"
# The form of a mean with its interval.
INTERVAL = {"mean": float, "low": float, "high": float}


def write_record(path: Path, record: dict[str, Any]) -> None:
    """Write a record as JSON with its own SHA-256; see `write_text`."""
    content = {key: value for key, value in record.items() if key != _OWN_HASH}
    write_json(path, content | {_OWN_HASH: hash_of_json(content)})


def read_recorded(path: Path, **parts: Any) -> dict[str, Any]:
    """The settings in a record; empty if there is no record.

    Raises UserError when it is no JSON object, has changed, or has one of the `parts` in another form than the given one (see
    `wrong_parts`).
    """
    if not path.is_file():
        return {}
    recorded = read_json(path)
    if not isinstance(recorded, dict):
        raise UserError(f"{path}: expected a JSON object of settings; remove what it describes, and it is made again")
    return _sound(path, _unsealed(path, recorded), {f"{name}?": form for name, form in parts.items()})


def _unsealed(path: Path, record: dict[str, Any]) -> dict[str, Any]:
    own_hash = record.pop(_OWN_HASH, None)
    if own_hash is not None and own_hash != hash_of_json(record):
        raise UserError(has_changed(path))
    return record


def _sound(path: Path, record: dict[str, Any], parts: dict[str, Any]) -> dict[str, Any]:
    if wrong := wrong_parts(record, {"arithmetic?": [int]} | parts):
        raise UserError(f"{path} is damaged: {', '.join(wrong)} is expected in it; remove the file, and make it again")
    return record


def wrong_parts(value: Any, form: Any, name: str = "") -> list[str]:
    """The parts of a value from a JSON file that are missing or have another form than the given one, by their names.

    A form is a type, a list of one form for all elements, or a dict of forms by key. The key "*" stands for all keys, and one that
    ends in "?" may be missing.
    """
    if isinstance(form, list):
        right = isinstance(value, list) and not any(wrong_parts(one, form[0]) for one in value)
        return [] if right else [name]
    if not isinstance(form, dict):
        is_truth_value = form in (int, float) and isinstance(value, bool)
        right = isinstance(value, int | float if form is float else form) and not is_truth_value
        return [] if right else [name]
    if not isinstance(value, dict):
        return [name]
    wrong, start = [], f"{name}." if name else ""
    for key, part in form.items():
        keys = list(value) if key == "*" else [key.removesuffix("?")]
        for one in keys:
            if one in value:
                wrong += wrong_parts(value[one], part, f"{start}{one}")
            elif not key.endswith("?"):
                wrong.append(f"{start}{one}")
    return wrong


def is_unchanged(path: Path, recorded_hash: str | None) -> bool:
    """Whether a file is as it was recorded. A file of which nothing is recorded counts as unchanged."""
    return recorded_hash is None or hash_of_files([path]) == recorded_hash


def has_changed(path: Path) -> str:
    """The message for a file that is not as it was written."""
    return f"{path} has changed since it was written (another SHA-256): bring it back, or remove it and make it again"


def read_whole_record(path: Path, **parts: Any) -> dict[str, Any]:
    """A record with parts of the given forms (see `wrong_parts`).

    Raises UserError when one is missing or has another form, since the file was changed or cut off.
    """
    record = read_json(path)
    return _sound(path, _unsealed(path, record) if isinstance(record, dict) else {}, parts)


def changes(
    recorded: dict[str, Any], now: dict[str, Any], value_if_left_out: ValueIfLeftOut = lambda key: NO_FLAG
) -> dict[str, tuple[Any, Any]]:
    """The recorded and the current value of each changed setting, by key; empty if nothing is recorded.

    Args:
        recorded: settings of the existing artefact. Keys that are not in `now` are not compared.
        now: the current settings.
        value_if_left_out: the value that a key missing from the record counts as; NO_FLAG for a key that is not a flag.
    """
    if not recorded:
        return {}
    earlier = {key: recorded[key] if key in recorded else value_if_left_out(key) for key in now}
    return {
        key: (earlier[key], now[key]) for key in sorted(now) if earlier[key] is not NO_FLAG and not _same(earlier[key], now[key])
    }


def versions_behind(record: dict[str, Any]) -> set[int]:
    """The versions of the arithmetic behind a recorded artefact: its own, and those of what it was made from."""
    return set(record.get("arithmetic", [1]))


def unfinished_of_another_version(what: str, record: dict[str, Any]) -> list[str]:
    """The message for an artefact that a run of another version of the arithmetic left unfinished; none for this version's."""
    if versions_behind(record) <= {ARITHMETIC}:
        return []
    found = ", ".join(map(str, sorted(versions_behind(record) - {ARITHMETIC})))
    return [
        f"{what} was left unfinished by another version of this project, which computes other values (version {found} of the "
        f"arithmetic, now {ARITHMETIC}; see CHANGELOG.md): finish with that version, or --overwrite"
    ]


def refusal(fault: str, changed: dict[str, tuple[Any, Any]], remedy: str) -> list[str]:
    """The message that says why a command can't resume from an artefact with other settings; none if nothing has changed."""
    listed = "; ".join(f"{key} was {_shown(earlier)}, is {_shown(now)}" for key, (earlier, now) in changed.items())
    return [f"{fault} ({listed}): {remedy}"] if changed else []


def _same(earlier: Any, now: Any) -> bool:
    """Whether two values are equivalent. A setting that is a list now may have been a single value or None in an older version."""
    if isinstance(now, list) and not isinstance(earlier, list):
        earlier = [] if earlier is None else [earlier]
    return earlier == now


def _shown(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else text[:12] + "…"
