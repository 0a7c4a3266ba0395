"""Settings recorded beside what they made, and whether a command that goes on from it still has the same ones.

One guard for adapters, predictions, verdicts and rewritten texts. A key that a record lacks, because an older version had no such
flag, counts as the value that the flag has when it is left out.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from compositional.core.errors import UserError
from compositional.core.files import read_json

# What `value_if_left_out` returns for a key that is no flag: then there is nothing to compare a record with that lacks it.
NO_FLAG = object()
ValueIfLeftOut = Callable[[str], Any]


def read_recorded(path: Path) -> dict[str, Any]:
    """The settings in a record; none where there is no record. Raises UserError when it is no JSON object."""
    if not path.is_file():
        return {}
    recorded = read_json(path)
    if not isinstance(recorded, dict):
        raise UserError(f"{path}: expected a JSON object of settings; remove what it describes, and it is made again")
    return recorded


def changes(
    recorded: dict[str, Any], now: dict[str, Any], value_if_left_out: ValueIfLeftOut = lambda key: NO_FLAG
) -> dict[str, tuple[Any, Any]]:
    """The recorded and the present value of each setting that has changed, by its key; none where nothing is recorded.

    Args:
        recorded: settings of what was made before. Keys that are not in `now` are not compared.
        now: the present settings.
        value_if_left_out: what a flag that the record lacks counts as, or NO_FLAG for a key that is no flag.
    """
    if not recorded:
        return {}
    earlier = {key: recorded[key] if key in recorded else value_if_left_out(key) for key in now}
    return {
        key: (earlier[key], now[key]) for key in sorted(now) if earlier[key] is not NO_FLAG and not _same(earlier[key], now[key])
    }


def refusal(fault: str, changed: dict[str, tuple[Any, Any]], remedy: str) -> list[str]:
    """The line that says why a command can't go on from what was made with other settings; none where nothing has changed."""
    listed = "; ".join(f"{key} was {_shown(earlier)}, is {_shown(now)}" for key, (earlier, now) in changed.items())
    return [f"{fault} ({listed}): {remedy}"] if changed else []


def _same(earlier: Any, now: Any) -> bool:
    """Whether two values say the same: what is a list now may have been one value, or none, in an earlier version."""
    if isinstance(now, list) and not isinstance(earlier, list):
        earlier = [] if earlier is None else [earlier]
    return earlier == now


def _shown(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else text[:12] + "…"
