"""Demos of tiny experiments, served by this process."""

from __future__ import annotations

import shlex
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from compositional.core.workspace import Workspace
from compositional.demo.answering import Method, load_methods
from compositional.demo.plan import make_demo_plan, parse_demo_arguments
from compositional.demo.server import address, listen, make_server
from compositional.prediction import Answer
from compositional.prediction.transformers_backend import TransformersGenerator
from helpers.tiny_runs import LENGTHS, TINY_RUN, method_run

# Summaries in Spanish by four methods, and two other requests by the base model.
SHOWN = ("zero_shot", "multi_step", "lc", "lc_pp")
OTHERS = {
    "french": "--secondary_task translation --tgt_lang fr --dataset pocket_dialogs --secondary_task_dataset pocket_dialogs_fr ",
    "witty": (
        "--secondary_task tone_adjustment --tgt_tone witty --dataset pocket_replies --secondary_task_dataset pocket_replies_witty "
    ),
}


def make_workspace(folder: Path, single_tasks: Path, model: Path, run: Callable[[str], None]) -> Workspace:
    """A workspace with finished experiments of the tiny model."""
    shutil.copytree(single_tasks, folder, dirs_exist_ok=True)
    asked = {name: method_run(model, name) for name in SHOWN} | {
        name: f"{TINY_RUN}{LENGTHS}{task}--model_name_or_path {model} --experiment_name {name} --zero_shot --do_predict "
        for name, task in OTHERS.items()
    }
    for flags in asked.values():
        run(f"{flags}--adapter_dtype float32 --prediction_backend transformers")
    return Workspace(folder)


def load(workspace: Workspace, folder: Path, flags: str = "") -> list[Method]:
    """The methods of a demo with these flags."""
    words = [*shlex.split(flags), "--workspace", str(workspace.root)]
    return load_methods(make_demo_plan(*parse_demo_arguments(words)), folder)


@contextmanager
def served(methods: list[Method]) -> Iterator[str]:
    """The address of a demo that runs during the block."""
    with listen(0) as listening:
        server = make_server(methods)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            deadline = time.monotonic() + 60
            while not server.started:
                assert time.monotonic() < deadline
                time.sleep(0.01)
            yield address(listening)
        finally:
            server.should_exit = True
            thread.join()


@contextmanager
def slowed(seconds: float) -> Iterator[list[float]]:
    """Make each token of transformers take longer; gives the times of the tokens that were made."""
    original, made = TransformersGenerator.stream, []

    def slow(self: TransformersGenerator, prompt: list[int]) -> Iterator[Answer]:
        for answer in original(self, prompt):
            time.sleep(seconds)
            made.append(time.monotonic())
            yield answer

    TransformersGenerator.stream = slow
    try:
        yield made
    finally:
        TransformersGenerator.stream = original


@contextmanager
def failing_at_first(error: Exception) -> Iterator[None]:
    """Make the first pass fail, whichever method's it is."""
    original = TransformersGenerator.stream

    def fail(self: TransformersGenerator, prompt: list[int]) -> Iterator[Answer]:
        TransformersGenerator.stream = original
        raise error
        yield

    TransformersGenerator.stream = fail
    try:
        yield
    finally:
        TransformersGenerator.stream = original


def wait_until_idle(made: list[float], seconds: float = 1.5) -> int:
    """Wait until no token has been made for some time; returns how many were."""
    while made and time.monotonic() - made[-1] < seconds:
        time.sleep(0.05)
    return len(made)
