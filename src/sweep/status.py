"""What has become of each step of a sweep, as workers write it down and the sweep reads it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

WAITING, RUNNING, DONE, FAILED, SKIPPED = "waiting", "running", "done", "failed", "skipped"
SETTLED = (DONE, FAILED, SKIPPED)


@dataclass(frozen=True)
class Event:
    """A step's new state, and the seconds that it took once it has ended."""

    name: str
    state: str
    seconds: float = 0.0

    def line(self) -> str:
        return json.dumps(asdict(self)) + "\n"


def read_events(path: Path) -> list[Event]:
    """The whole lines of a status file, which may be being written; none where there is no file yet."""
    if not path.is_file():
        return []
    *whole, _ = path.read_text(encoding="utf-8").split("\n")
    return [Event(**json.loads(line)) for line in whole]


def last_line(log: Path, size: int = 4096) -> str:
    """The last line of a log with text in it; of a progress bar, its latest state."""
    if not log.is_file():
        return ""
    with open(log, "rb") as file:
        file.seek(max(0, log.stat().st_size - size))
        text = file.read().decode("utf-8", errors="replace")
    return next((line.strip() for line in reversed(text.replace("\r", "\n").split("\n")) if line.strip()), "")


def last_lines(log: Path, count: int, size: int = 16384) -> list[str]:
    """The last lines of a log; of each progress bar, only its latest state."""
    if not log.is_file():
        return []
    with open(log, "rb") as file:
        file.seek(max(0, log.stat().st_size - size))
        text = file.read().decode("utf-8", errors="replace")
    lines = [line.rsplit("\r", 1)[-1].rstrip() for line in text.split("\n")]
    return [line for line in lines if line][-count:]
