"""How a command ends: a user's mistakes are lines and exit code 2, Ctrl-C is 130, a bug of ours shows its traceback."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable

from src.engine import lifeline  # noqa: F401 - vLLM's processes import the main script, and so this
from src.errors import UserError


def exit_code_of(command: Callable[[], object]) -> int:
    """Run a command and return its exit code. A SIGTERM, a cluster's way to end a job, lets it put its things away first."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        command()
    except UserError as error:
        for mistake in error.mistakes:
            print(f"error: {mistake}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command (without --overwrite) goes on from here", file=sys.stderr)
        return 130
    return 0
