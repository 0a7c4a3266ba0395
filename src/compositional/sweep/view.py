"""What a sweep shows while it runs: a live table on a terminal, a line per event elsewhere, and the time to go."""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from compositional.sweep.execution import Progress
from compositional.sweep.steps import Kind, Step
from compositional.sweep.worker import DONE, FAILED, LOST, RUNNING, SETTLED, SKIPPED, Event, last_line, last_lines

if TYPE_CHECKING:
    from rich.console import RenderableType

_Duration = tuple[Kind, bool]  # training alone takes less than training and predicting
_SHORTEST = 2.0  # seconds; what takes less was done already, or does not count


def seconds_to_go(steps: list[Step], states: dict[str, Event], elapsed: float) -> float | None:
    """The seconds that are left if each step takes as long as those of its kind did, as many side by side as so far.

    None while nothing has ended that says so. A kind of which none has ended counts like the mean of all, the judge's not at all.
    """
    taken: dict[_Duration, list[float]] = defaultdict(list)
    left: list[_Duration] = []
    for step in steps:
        event = states[step.name]
        if event.state in (DONE, FAILED) and event.seconds >= _SHORTEST:
            taken[step.kind, step.predicts].append(event.seconds)
        elif event.state not in SETTLED:
            left.append((step.kind, step.predicts))
    if not taken:
        return None
    means = {kind: sum(seconds) / len(seconds) for kind, seconds in taken.items()}
    busy = sum(map(sum, taken.values()))
    usual = busy / sum(map(len, taken.values()))
    return sum(means.get(one, 0.0 if one[0] is Kind.JUDGE else usual) for one in left) * elapsed / busy


_LINES_OF_A_FAILURE = 15


class View:
    """Shows a sweep's progress; a context manager, and what `run_steps` calls with new events."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._start = time.monotonic()
        self._groups = {step.name: step.group for step in progress.steps}
        self._live = None

    def __enter__(self) -> View:
        if sys.stdout.isatty():
            from rich.live import Live

            self._live = Live(get_renderable=self._table, refresh_per_second=2)
            self._live.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._live:
            self._live.stop()

    def __call__(self, events: list[Event]) -> None:
        for event in events:
            settled = sum(one.state in SETTLED for one in self._progress.states.values())
            took = f" ({event.seconds:.0f} s)" if event.seconds else ""
            again = ", with its process or machine: it begins again" if event.state == LOST else ""
            line = f"[{settled}/{len(self._progress.steps)}] {event.state} {event.name}{took}{again}"
            if not self._live:
                print(line, flush=True)
            elif event.state in (FAILED, SKIPPED, LOST):
                self._live.console.print(line, markup=False, highlight=False)

    def _table(self) -> RenderableType:
        from rich.table import Table
        from rich.text import Text

        counts = {state: len(self._progress.named(state)) for state in (DONE, FAILED, SKIPPED, RUNNING)}
        shown = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
        title = (
            f"{len(self._progress.steps)} steps: {shown or 'starting'}; {duration(time.monotonic() - self._start)}{self._to_go()}"
        )
        table = Table(title=title, title_justify="left", show_header=False, box=None, pad_edge=False)
        for name in self._progress.named(RUNNING):
            table.add_row(Text(name), Text(last_line(self._progress.log_of(self._groups[name])), overflow="ellipsis", no_wrap=True))
        return table

    def _to_go(self) -> str:
        seconds = seconds_to_go(self._progress.steps, self._progress.states, time.monotonic() - self._start)
        return f", about {duration(seconds)} to go" if seconds else ""


def summary(progress: Progress) -> str:
    """How many steps are done, failed and skipped, and the last lines of what failed."""
    counts = {state: progress.named(state) for state in (DONE, FAILED, SKIPPED)}
    lines = [", ".join(f"{len(names)} {state}" for state, names in counts.items())]
    steps = {step.name: step for step in progress.steps}
    for name in counts[FAILED]:
        log = progress.log_of(steps[name].group)
        lines += ["", f"failed: {name}; {log} ends with:", *(f"    {line}" for line in _part_of(log, steps[name]))]
    if counts[SKIPPED]:
        lines += ["", f"skipped, as what they need has failed: {', '.join(counts[SKIPPED])}"]
    return "\n".join(lines)


def _part_of(log: Path, step: Step) -> list[str]:
    """The last lines that a failed step wrote into its group's log."""
    lines = last_lines(log, 10**6, size=10**6)
    starts = [number for number, line in enumerate(lines) if line.startswith("$ ")]
    own = [number for number in starts if lines[number] == f"$ {step}"]
    if not own:
        return lines[-_LINES_OF_A_FAILURE:]
    end = next((number for number in starts if number > own[-1]), len(lines))
    return lines[own[-1] : end][-_LINES_OF_A_FAILURE:]


def duration(seconds: float) -> str:
    """`2 h 5 min`, `5 min` or `40 s`."""
    minutes = round(seconds / 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes} min" if seconds >= 60 else f"{seconds:.0f} s"
