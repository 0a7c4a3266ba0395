"""Settings recorded beside each artefact, and whether a command that resumes from it has the same settings.

Adapters, predictions, verdicts and rewritten texts share this check. If a record lacks a key, because an older version had no
such flag, the key counts as the value that the flag has when it is omitted.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from compositional.core.errors import UserError
from compositional.core.files import read_json

# The version of the arithmetic. It rises when the same settings give other values, beyond rounding; CHANGELOG.md says why. Records
# without a version are of version 1. Finished artefacts of another version are kept, and results name all versions behind them.
ARITHMETIC = 2

# What `value_if_left_out` returns for a key that is not a flag. A record that lacks the key is then not compared by it.
NO_FLAG = object()
ValueIfLeftOut = Callable[[str], Any]


def read_recorded(path: Path) -> dict[str, Any]:
    """The settings in a record; empty if there is no record. Raises UserError when it is not a JSON object."""
    if not path.is_file():
        return {}
    recorded = read_json(path)
    if not isinstance(recorded, dict):
        raise UserError(f"{path}: expected a JSON object of settings; remove what it describes, and it is made again")
    return recorded


def read_whole_record(path: Path, **parts: type) -> dict[str, Any]:
    """A record with parts of the given types; raises UserError when one is missing, since the file was changed or cut off."""
    record = read_json(path)
    lacking = [name for name, kind in parts.items() if not isinstance(record, dict) or not isinstance(record.get(name), kind)]
    if lacking or not isinstance(record, dict):
        expected = ", ".join(lacking) or "a JSON object"
        raise UserError(f"{path} is damaged: {expected} is expected in it; remove the file, and make it again")
    return record


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
