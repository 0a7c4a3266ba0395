"""What has become of each step of a sweep, as workers write it down and the sweep reads it."""

from __future__ import annotations

import fcntl
import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from compositional.core.logs import log_to_screen
from compositional.core.processes import end_with_parent, exit_code_of
from compositional.prediction.vllm_backend import Engines
from compositional.sweep.steps import Kind

WAITING, RUNNING, DONE, FAILED, SKIPPED = "waiting", "running", "done", "failed", "skipped"
LOST = "lost"  # with its process or machine; it begins again
SETTLED = (DONE, FAILED, SKIPPED)


@dataclass(frozen=True)
class Event:
    """A step's new state, and the seconds that it took once it has ended."""

    name: str
    state: str
    seconds: float = 0.0

    def line(self) -> str:
        """The event as one line of a status file (JSON)."""
        return json.dumps(asdict(self)) + "\n"


@dataclass(frozen=True)
class Job:
    """A step as a worker is told of it: the value of its Kind, its words, the steps that it needs, and its whole command."""

    name: str
    kind: str
    words: list[str]
    needs: list[str]
    command: str


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


@contextmanager
def alone(lock: Path) -> Iterator[None]:
    """The block begins once no other process is in it, on whichever machine: a lock of the kernel's, which ends with its process.

    A process may live on for a while after Ray has lost it, and its steps have been given to another.
    """
    with open(lock, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("waiting for an earlier process of these steps to end", flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def main(status_file: Path) -> None:
    """Run the steps that standard input lists, until its parent ends. A step is skipped when one that it needs has failed."""
    asked = json.load(sys.stdin)
    end_with_parent(asked["parent"])
    log_to_screen()
    with alone(status_file.with_suffix(".lock")):
        _run_all([Job(**data) for data in asked["jobs"]], status_file)


def _run_all(jobs: list[Job], status_file: Path) -> None:
    lost = {event.name for event in read_events(status_file) if event.state in (FAILED, SKIPPED)}
    with Engines() as engines, open(status_file, "a", encoding="utf-8") as status:

        def say(name: str, state: str, seconds: float = 0.0) -> None:
            status.write(Event(name, state, round(seconds, 1)).line())
            status.flush()

        for job in jobs:
            start = time.monotonic()
            if lost.intersection(job.needs):
                lost.add(job.name)
                say(job.name, SKIPPED)
                continue
            say(job.name, RUNNING)
            print(f"\n$ {job.command}", flush=True)
            code = exit_code_of(partial(_run, job, engines))
            if code == 130:
                sys.exit(code)
            if code:
                lost.add(job.name)
            say(job.name, FAILED if code else DONE, time.monotonic() - start)


def _run(job: Job, engines: Engines) -> None:
    """Run a step in this process, with its engines; raises UserError for what its command reports as mistakes."""
    kind = Kind(job.kind)
    if kind is Kind.PREPARE:
        from compositional.preparation.__main__ import run

        run(job.words)
    elif kind is Kind.JUDGE:
        import llm_judge_eval

        llm_judge_eval.run(job.words, engines)
    else:
        import run_experiment

        run_experiment.run(job.words, engines)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
