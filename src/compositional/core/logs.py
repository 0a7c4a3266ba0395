"""Logging: everything goes to the experiment's log file, progress and results also to the screen."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def log_to_screen() -> None:
    """Show this package's messages as plain lines, and only errors of other libraries."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    handler.addFilter(lambda record: record.name.startswith(("compositional", "__main__")) or record.levelno >= logging.ERROR)
    root = logging.getLogger()
    handler.setLevel(logging.INFO)
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    logging.getLogger("compositional").setLevel(logging.DEBUG)  # debug messages go to the file only


def log_file(folder: Path) -> Path:
    """The log file in an experiment's folder of logs."""
    return folder / "run.log"


class _LogFile(logging.FileHandler):
    """A log file that raises errors of the file system. Python's own prints a traceback for each message instead."""

    def handleError(self, record: logging.LogRecord) -> None:
        if isinstance(sys.exc_info()[1], OSError):
            raise
        super().handleError(record)


@contextmanager
def log_to_file(folder: Path) -> Iterator[None]:
    """Log everything to run.log during the block, including warnings and the traceback of a failure."""
    folder.mkdir(parents=True, exist_ok=True)
    handler = _LogFile(log_file(folder), encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.addHandler(handler)
    logging.captureWarnings(True)
    try:
        yield
    except Exception:
        with suppress(OSError):  # the log's own, of a full disk for example; the failure is shown, too
            handler.handle(logging.LogRecord("run", logging.ERROR, __file__, 0, "failed", None, sys.exc_info()))
        raise
    finally:
        logging.captureWarnings(False)
        root.removeHandler(handler)
        with suppress(OSError):  # only what could not be written before is left
            handler.close()


@contextmanager
def into_file(path: Path) -> Iterator[None]:
    """Append this process's standard output and error to a file during the block. Child processes started in it keep doing so."""
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
        for descriptor, copy in enumerate(saved, start=1):
            os.dup2(copy, descriptor)
            os.close(copy)


def pass_messages_on(library: str) -> None:
    """Send a library's messages through our log instead of its own handlers."""
    own = logging.getLogger(library)
    own.handlers.clear()
    own.propagate = True


def quieten_libraries() -> None:
    """Hide progress bars of transformers and datasets, and send the messages of related libraries through our log."""
    import datasets
    import huggingface_hub
    import transformers

    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    huggingface_hub.utils.enable_progress_bars()  # the line above also disables those of downloads
    transformers.utils.logging.disable_default_handler()
    transformers.utils.logging.enable_propagation()
    for name in ("httpx", "httpx2", "huggingface_hub", "fsspec", "absl", "urllib3", "filelock"):
        logging.getLogger(name).setLevel(logging.WARNING)
