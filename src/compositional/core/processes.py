"""Exit codes of commands, the processes of a distributed training, and child processes that end with their parent."""

from __future__ import annotations

import atexit
import fcntl
import gc
import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from compositional.core.errors import UserError, fault_of_machine


def exit_code_of(command: Callable[[], object]) -> int:
    """Run a command and return its exit code. SIGTERM, by which clusters end jobs, becomes SystemExit, so that cleanup runs.

    A user's mistakes and errors of the machine become lines. A closed pipe ends the command silently, as the shell's commands.

    Unless the user has set OMP_WAIT_POLICY, waiting OpenMP threads sleep. Threads that spin are a little faster on an idle machine,
    and take the time of other processes on a busy one. The setting counts if torch is imported later, by the command.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Otherwise Python would search all that the libraries have created for garbage before it ends: a second or two.
    atexit.register(gc.freeze)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        try:
            command()
        finally:
            sys.stdout.flush()
    except UserError as error:
        for mistake in error.mistakes:
            print(f"error: {_in_one_line(mistake)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command (without --overwrite) resumes from here", file=sys.stderr)
        return 130
    except BrokenPipeError:
        if not (closed := [output for output in (sys.stdout, sys.stderr) if _has_no_reader(output)]):
            raise
        for output in closed:  # Python flushes it at its end, and would complain
            os.dup2(os.open(os.devnull, os.O_WRONLY), output.fileno())
        return 128 + signal.SIGPIPE
    except Exception as error:
        if not (fault := fault_of_machine(error)):
            raise
        print(f"error: {fault}", file=sys.stderr)
        return 2
    return 0


def _in_one_line(mistake: str) -> str:
    """A mistake with the line breaks of what it quotes, such as a name with one, spelled out."""
    return mistake.replace("\r", "\\r").replace("\n", "\\n")


def _has_no_reader(output: TextIO) -> bool:
    """Whether an output is a pipe that its reader, such as `head`, has closed."""
    poll = select.poll()
    poll.register(output.fileno(), select.POLLOUT)
    return any(state & select.POLLERR for _, state in poll.poll(0))


def is_main_process() -> bool:
    """Whether this process writes files: it has rank 0, or is the only one."""
    return os.environ.get("RANK", "0") == "0"


def process_count() -> int:
    """How many processes train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def wait_for_all_processes() -> None:
    """A barrier; does nothing for a single process."""
    if process_count() > 1:
        import torch
        from accelerate import PartialState

        PartialState(cpu=not torch.cuda.is_available()).wait_for_everyone()


_VARIABLE = "COMPOSITION_MAIN_PROCESS"


@contextmanager
def children_end_with_this_process() -> Iterator[None]:
    """Processes started in the block, and their own children, watch this process and end when it ends."""
    os.environ[_VARIABLE] = str(os.getpid())
    try:
        yield
    finally:
        del os.environ[_VARIABLE]


@contextmanager
def ctrl_c_is_heard() -> Iterator[None]:
    """Make Ctrl-C raise KeyboardInterrupt repeatedly, every two seconds, until the block ends.

    While vLLM starts, it waits in a call of pyzmq that swallows the first interrupt and would continue to wait.
    """
    is_usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if not is_usual or threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: object) -> None:
        signal.setitimer(signal.ITIMER_REAL, 2)
        raise KeyboardInterrupt

    alarm = signal.signal(signal.SIGALRM, interrupt)
    signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGALRM, alarm)


@contextmanager
def holding(file: Path) -> Iterator[None]:
    """Lock a file (flock) during the block, or until this process ends; it is made."""
    with open(file, "w") as opened:
        fcntl.flock(opened, fcntl.LOCK_EX)
        yield


def is_held(file: Path) -> bool:
    """Whether a process that runs is `holding` a file; none is once the file is gone."""
    try:
        with open(file, "r+") as opened:  # NFS locks only what is open for writing
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


def end_with_parent(parent: int) -> None:
    """End this process when its parent ends, in whatever way, or has ended already.

    Args:
        parent: the process id that the parent has told, since a process whose parent has ended is given another.
    """

    def watch() -> None:
        with suppress(ProcessLookupError):
            ending = os.pidfd_open(parent)
            if os.getppid() == parent:
                select.select([ending], [], [])
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def _end_with(main_process: int) -> None:
    engine = os.getppid() if os.getppid() not in (main_process, 1) else os.getpid()
    with suppress(ProcessLookupError):  # it has ended already
        select.select([os.pidfd_open(main_process)], [], [])
    with suppress(ProcessLookupError):
        os.kill(engine, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


if _VARIABLE in os.environ:
    threading.Thread(target=_end_with, args=(int(os.environ[_VARIABLE]),), daemon=True).start()
