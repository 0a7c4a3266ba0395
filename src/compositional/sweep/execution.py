"""Running a sweep's groups on Ray: each where its GPU or processor cores are free, as soon as what it needs is there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from compositional.sweep.cluster import Watch, messages_in, options_of, started_ray
from compositional.sweep.project import python_path, working_folder
from compositional.sweep.scripts import Resources
from compositional.sweep.steps import Kind, Step, required_steps
from compositional.sweep.worker import DONE, FAILED, LOST, SETTLED, SKIPPED, WAITING, Event, Job, read_events

_SECONDS_BETWEEN_LOOKS = 0.5
_MOST_LOSSES = 3  # a step that is lost as often has failed: it may be what kills its machines, by the memory that it takes


@dataclass
class Progress:
    """The state of every step, and the logs of their groups."""

    steps: list[Step]
    folder: Path
    states: dict[str, Event] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.states = {step.name: Event(step.name, WAITING) for step in self.steps}
        self._required = required_steps(self.steps)
        self._read: Counter[str] = Counter()  # events of each group
        self._losses: Counter[str] = Counter()

    @property
    def groups(self) -> dict[str, list[Step]]:
        """The steps by the process that they share, in their order."""
        found: dict[str, list[Step]] = {}
        for step in self.steps:
            found.setdefault(step.group, []).append(step)
        return found

    def log_of(self, group: str) -> Path:
        """Where a group's process writes what it prints."""
        return self.folder / f"{group}.log"

    def status_of(self, group: str) -> Path:
        """Where a group's process notes the states of its steps."""
        return self.log_of(group).with_suffix(".status.jsonl")

    def named(self, state: str) -> list[str]:
        """Names of the steps in a state."""
        return [name for name, event in self.states.items() if event.state == state]

    def is_done(self, step: Step) -> bool:
        """Whether the step has ended well."""
        return self.states[step.name].state == DONE

    def update(self) -> list[Event]:
        """Read what the workers have written down; returns what is new."""
        new = []
        for group in self.groups:
            events = read_events(self.status_of(group))
            unread, self._read[group] = events[self._read[group] :], len(events)
            for event in unread:
                if self.states[event.name].state not in SETTLED and self.states[event.name] != event:
                    self.states[event.name] = event
                    new.append(event)
        return new

    def unsettled(self, group: str) -> list[Step]:
        """The steps of a group that have not ended."""
        return [step for step in self.groups[group] if self.states[step.name].state not in SETTLED]

    def lose(self, group: str) -> list[Event]:
        """Note that a group's process is lost, by its machine's end for example. The step that it ran is to begin again."""
        events = []
        for step in self.unsettled(group)[:1]:
            self._losses[step.name] += 1
            events = [Event(step.name, LOST if self._losses[step.name] < _MOST_LOSSES else FAILED)]
        self.states |= {event.name: event for event in events}
        return events

    def fail(self, group: str) -> list[Event]:
        """Settle what is left of a group that can't be run."""
        left = [step.name for step in self.unsettled(group)]
        events = [Event(name, FAILED if number == 0 else SKIPPED) for number, name in enumerate(left)]
        self.states |= {event.name: event for event in events}
        return events

    def is_ready(self, group: list[Step]) -> bool:
        """Whether all that a group needs from other groups has ended, well or not."""
        own = {step.name for step in group}
        return all(self.states[name].state in SETTLED for step in group for name in self._required[step.name] if name not in own)

    def jobs(self, group: list[Step]) -> list[Job]:
        """What a worker is told of the steps of a group."""
        return [Job(step.name, step.kind.value, list(step.words), list(self._required[step.name]), str(step)) for step in group]

    def without_lost(self, group: list[Step]) -> tuple[list[Step], list[Step]]:
        """The steps of a group that can be run, and those that can't because what they need has failed."""
        lost = {name for name, event in self.states.items() if event.state in (FAILED, SKIPPED)}
        possible, skipped = [], []
        for step in group:
            if lost.intersection(self._required[step.name]):
                lost.add(step.name)
                skipped.append(step)
            else:
                possible.append(step)
        return possible, skipped


def run_steps(progress: Progress, resources: Resources, address: str | None, look: Callable[[list[Event]], None]) -> None:
    """Run all steps. `look` is called again and again with the events since its last call.

    Raises UserError when Ray or its machines are gone, so that no step can be run any more.
    """
    import ray

    messages = progress.folder / "ray.log"
    with messages_in(messages), started_ray(address):
        progress.folder.mkdir(parents=True, exist_ok=True)
        messages.unlink(missing_ok=True)
        for group in progress.groups:
            progress.status_of(group).unlink(missing_ok=True)
            progress.log_of(group).unlink(missing_ok=True)
        options, watch = options_of(resources), Watch(address)
        remote = ray.remote(max_retries=0)(run_group)
        waiting, running = dict(progress.groups), {}
        while waiting or running:
            for group in [name for name, steps in waiting.items() if progress.is_ready(steps)]:
                possible, skipped = progress.without_lost(waiting.pop(group))
                new = [Event(step.name, SKIPPED) for step in skipped]
                progress.states |= {event.name: event for event in new}
                look(new)
                if possible:
                    paths = [str(path.resolve()) for path in (progress.log_of(group), progress.status_of(group), working_folder())]
                    taken = options[_option(possible)]
                    jobs = [asdict(job) for job in progress.jobs(possible)]
                    running[remote.options(**taken).remote(jobs, *paths, taken["num_cpus"])] = group
            ended, _ = ray.wait(list(running), timeout=_SECONDS_BETWEEN_LOOKS) if running else ([], [])
            for reference in ended:
                group = running.pop(reference)
                try:
                    ray.get(reference)
                except ray.exceptions.LocalRayletDiedError as error:
                    raise watch.lost() from error
                except ray.exceptions.RayError as error:
                    with open(progress.log_of(group), "a", encoding="utf-8") as log:
                        log.write(f"\n{error}\n")
                    new = progress.update()
                    lost = (ray.exceptions.NodeDiedError, ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError)
                    look([*new, *(progress.lose(group) if isinstance(error, lost) else progress.fail(group))])
                    if left := progress.unsettled(group):
                        waiting[group] = left
            if not running:
                time.sleep(_SECONDS_BETWEEN_LOOKS)
            look(progress.update())
            watch.check([options[_option(progress.groups[group])] for group in (*waiting, *running.values())])


def _option(group: list[Step]) -> str:
    return "judge" if group[0].kind is Kind.JUDGE else "experiment"


def run_group(jobs: list[dict[str, Any]], log: str, status: str, folder: str, threads: int) -> None:
    """Run a group's steps in a process of their own. When it crashes, its step has failed, and another goes on with the rest."""
    environment = os.environ | {"OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": str(threads), "PYTHONUNBUFFERED": "1"}
    environment |= {"PYTHONPATH": python_path()}
    left = jobs
    while left:
        with open(log, "ab") as file:
            worker = [sys.executable, "-m", "compositional.sweep.worker", status]
            process = subprocess.Popen(
                worker, cwd=folder, env=environment, stdin=subprocess.PIPE, stdout=file, stderr=subprocess.STDOUT
            )
            process.communicate(json.dumps({"parent": os.getpid(), "jobs": left}).encode())
        settled = {event.name for event in read_events(Path(status)) if event.state in SETTLED}
        left = [job for job in jobs if job["name"] not in settled]
        if left:
            with open(status, "a", encoding="utf-8") as file:
                file.write(Event(left[0]["name"], FAILED).line())
            left = left[1:]
