"""What has become of each step of a sweep, as workers write it down and the sweep reads it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from compositional.core.logs import log_to_screen
from compositional.core.processes import end_with_parent, exit_code_of
from compositional.prediction.vllm_backend import Engines

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


def main(status_file: Path) -> None:
    """Run the steps that standard input lists. A step is skipped when one that it needs has failed."""
    end_with_parent()
    log_to_screen()
    lost = {event.name for event in read_events(status_file) if event.state in (FAILED, SKIPPED)}
    with Engines() as engines, open(status_file, "a", encoding="utf-8") as status:

        def say(name: str, state: str, seconds: float = 0.0) -> None:
            status.write(Event(name, state, round(seconds, 1)).line())
            status.flush()

        for step in json.load(sys.stdin):
            name, start = step["name"], time.monotonic()
            if lost.intersection(step["needs"]):
                lost.add(name)
                say(name, SKIPPED)
                continue
            say(name, RUNNING)
            print(f"\n$ {' '.join(step['command'])}", flush=True)
            code = _run(step["command"], engines)
            if code == 130:
                sys.exit(code)
            if code:
                lost.add(name)
            say(name, FAILED if code else DONE, time.monotonic() - start)


def _run(command: list[str], engines: Engines) -> int:
    """A command's exit code. Our own Python commands run in this process, with its engines."""
    import llm_judge_eval
    import run_experiment

    ours = {"run_experiment.py": run_experiment.run, "llm_judge_eval.py": llm_judge_eval.run}
    program, script, *words = command
    if program == "python" and script in ours:
        return exit_code_of(lambda: ours[script](words, engines))
    return subprocess.run(command, check=False).returncode


if __name__ == "__main__":
    main(Path(sys.argv[1]))
