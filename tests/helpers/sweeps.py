"""Sweeps as steps, and their mistakes."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

import llm_judge_eval
import run_experiment
import run_sweep
from compositional.core.errors import UserError
from compositional.core.workspace import Workspace
from compositional.sweep import execution
from compositional.sweep.arguments import parse_sweep_arguments
from compositional.sweep.execution import Progress
from compositional.sweep.plan import make_sweep_plan
from compositional.sweep.steps import Kind, Step
from compositional.sweep.worker import DONE, Event

_Found = TypeVar("_Found")
ONE_SUB_TASK = "--sub_tasks sum_tr_es "


def steps_of(flags: str) -> list[Step]:
    return list(make_sweep_plan(*parse_sweep_arguments(shlex.split(flags))).steps)


def mistakes_in(flags: str) -> list[str]:
    with pytest.raises(UserError) as caught:
        steps_of(flags)
    return list(caught.value.mistakes)


def run_in_this_process(progress: Progress, *ignored: object) -> None:
    """In the place of `run_steps`: a sweep's own commands in another order, without Ray and its processes."""
    stages = {Kind.TRAIN: 0, Kind.JUDGE: 2}
    last_first = progress.steps[::-1]
    for step in sorted(last_first, key=lambda step: 1 if step.predicts else stages[step.kind]):
        run = llm_judge_eval.run if step.kind is Kind.JUDGE else run_experiment.run
        run(list(step.words))
        progress.states[step.name] = Event(step.name, DONE)


def undisturbed(flags: str, folder: Path) -> Workspace:
    """A workspace in which a sweep has run in this process. `flags` end with --workspace."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(execution, "run_steps", run_in_this_process)
        assert run_sweep.run([*shlex.split(flags), str(folder)])
    return Workspace(folder)


TINY_WITHOUT_JOINT_EXPERT = (
    "--single_task_flags=' --max_train_examples 8' --learned_flags=' --num_examples_merge 8' --cpus_per_task 1 "
    "--experiment_flags=' --max_test_examples 4 --bootstrap_resamples 20 --max_new_tokens 8' "
)

# Four rows of one sub-task, from two trainings of a few seconds. The workspace follows.
SMALL_TABLE = (
    f"{ONE_SUB_TASK}--methods zero_shot main_lora linear_merge multi_step --cpus_per_task 1 "
    "--experiment_flags=' --max_test_examples 12 --max_new_tokens 8 --bootstrap_resamples 20' "
    "--single_task_flags=' --max_train_examples 48' --workspace "
)


def assert_same_results(one: Workspace, other: Workspace) -> None:
    """The small table, its adapters and its predictions are the same to the bit, and nothing unfinished is left."""
    table = Path("output") / "tables" / "main.csv"
    assert (one.root / table).read_bytes() == (other.root / table).read_bytes()
    for name in ("pocket_dialogs_lora", "pocket_sentences_es_lora"):
        first, second = (workspace.stored_model(name) / "adapter_model.safetensors" for workspace in (one, other))
        assert first.read_bytes() == second.read_bytes()
    predicted = sorted(path.relative_to(one.root) for path in one.root.glob("predictions/*/test.jsonl"))
    assert len(predicted) == 4
    for path in predicted:
        assert (one.root / path).read_bytes() == (other.root / path).read_bytes()
    assert [path for path in other.root.rglob("*") if path.name.endswith((".unfinished", ".partial", ".training"))] == []


def wait_until(holds: Callable[[], _Found], seconds: float = 600) -> _Found:
    """What comes about, such as a truth value; fail when it does not, however slow the machine is."""
    deadline = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return found


def workers_in(folder: Path) -> dict[int, str]:
    """Command lines of the running processes that run a sweep's steps in a folder, by process id."""
    running = {number: words for number, words in _running().items() if "compositional.sweep.worker" in words}
    return {number: words for number, words in running.items() if str(folder) in words}


def _running() -> dict[int, str]:
    found = {}
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found[int(path.parent.name)] = path.read_bytes().decode(errors="replace").replace("\0", " ")
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def parent_of(process: int) -> int:
    """The parent of a running process; 0 when it has ended."""
    try:
        return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return 0


def started_with(text: str) -> list[int]:
    """Processes that have a text in the environment that they were started with."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if text.encode() in path.read_bytes():
                found.append(int(path.parent.name))
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
    return found
