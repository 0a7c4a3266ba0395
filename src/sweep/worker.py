"""Runs the steps of a group one after another in one process, which share its engine: `python -m src.sweep.worker STATUS_FILE`.

The steps come as JSON on standard input. What becomes of each is a line in the status file as soon as it is known. A crash ends the
process: the one that started it begins another one with the rest.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

from src.command import exit_code_of
from src.engine.lifeline import end_with_parent
from src.engine.pool import Engines
from src.logs import log_to_screen
from src.sweep.status import DONE, FAILED, RUNNING, SKIPPED, Event, read_events


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
