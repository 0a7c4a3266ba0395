"""Where messages go: the experiment's log file, and the screen for what a user waits for."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def log_to_screen() -> None:
    """Our own messages as plain lines, other libraries' only if they are errors."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    handler.addFilter(lambda record: record.name.startswith(("compositional", "__main__")) or record.levelno >= logging.ERROR)
    root = logging.getLogger()
    handler.setLevel(logging.INFO)
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    logging.getLogger("compositional").setLevel(logging.DEBUG)  # what is logged at this level goes to the file alone


def log_file(folder: Path) -> Path:
    """The log file in an experiment's folder of logs."""
    return folder / "run.log"


@contextmanager
def log_to_file(folder: Path) -> Iterator[None]:
    """Everything, warnings and the traceback of a failure included, into run.log."""
    folder.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(log_file(folder), encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.addHandler(handler)
    logging.captureWarnings(True)
    try:
        yield
    except Exception:
        handler.handle(logging.LogRecord("run", logging.ERROR, __file__, 0, "failed", None, sys.exc_info()))
        raise
    finally:
        logging.captureWarnings(False)
        root.removeHandler(handler)
        handler.close()


@contextmanager
def into_file(path: Path) -> Iterator[None]:
    """Append this process's standard output and error to a file meanwhile. Child processes started meanwhile keep to it."""
    sys.stdout.flush()
    sys.stderr.flush()
    saved = [os.dup(1), os.dup(2)]
    try:
        with open(path, "ab") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for descriptor, one in enumerate(saved, start=1):
            os.dup2(one, descriptor)
            os.close(one)


def pass_messages_on(library: str) -> None:
    """A library's messages go through our log instead of its own handlers."""
    own = logging.getLogger(library)
    own.handlers.clear()
    own.propagate = True


def quieten_libraries() -> None:
    """No bars of transformers' weight loading, and its and its kin's messages through our log."""
    import datasets
    import huggingface_hub
    import transformers

    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    huggingface_hub.utils.enable_progress_bars()  # the line above switches off those of downloads, too
    transformers.utils.logging.disable_default_handler()
    transformers.utils.logging.enable_propagation()
    for name in ("httpx", "httpx2", "huggingface_hub", "fsspec", "absl", "urllib3", "filelock"):
        logging.getLogger(name).setLevel(logging.WARNING)
