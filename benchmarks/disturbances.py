"""What `benchmarks.chaos` does to a command: each disturbance runs it, takes its cause away, and returns how the runs ended."""

from __future__ import annotations

import ctypes
import os
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Protocol

_LONGEST_GOODBYE = 90.0  # seconds in which child processes end after their parent; Ray's agents need up to a minute


@dataclass(frozen=True)
class Ending:
    """How a run ended: its exit code (minus the signal that killed it), what it printed, and the commands of processes it left."""

    code: int
    said: str
    processes_left: tuple[str, ...]


class Running:
    """A command that runs in a process and session of its own."""

    def __init__(self, process: int, output: Path) -> None:
        self.process, self.output = process, output

    def kill(self) -> Ending:
        """SIGKILL to the process alone, as the kernel sends it: its children must notice by themselves."""
        os.kill(self.process, signal.SIGKILL)
        return self.wait(_LONGEST_GOODBYE)

    def wait(self, seconds: float) -> Ending:
        """Wait for the end; a process that takes longer is killed, which counts as exit code 124."""
        end = time.monotonic() + seconds
        while not (found := os.waitpid(self.process, os.WNOHANG))[0]:
            if time.monotonic() > end:
                os.killpg(self.process, signal.SIGKILL)
                os.waitpid(self.process, 0)
                return Ending(124, self._said(), ())
            time.sleep(0.02)
        end = time.monotonic() + _LONGEST_GOODBYE
        while (left := _processes_of_session(self.process)) and time.monotonic() < end:
            time.sleep(0.1)
        commands = tuple(_command_of(process) for process in left)
        for process in left:
            with suppress(ProcessLookupError):  # it has just ended
                os.kill(process, signal.SIGKILL)
        return Ending(os.waitstatus_to_exitcode(found[1]), self._said(), commands)

    def _said(self) -> str:
        return self.output.read_text(errors="replace") if self.output.is_file() else ""


def _command_of(process: int) -> str:
    try:
        words = Path(f"/proc/{process}/cmdline").read_text(errors="replace").split("\0")
    except OSError:  # it has just ended
        return "?"
    return " ".join([Path(words[0]).name, *words[1:4]]).strip()[:120]


def _processes_of_session(session: int) -> list[int]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(int(folder.name))
    return found


def obey_file_modes() -> None:
    """Give up root's right to write to read-only files (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH and CAP_FOWNER), for this process."""
    if os.geteuid() != 0:
        return
    header, data = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.capget(header, data):
        raise OSError(ctypes.get_errno(), "capget")
    for first in (0, 1, 2):  # effective, permitted, inheritable, of the lower 32 capabilities
        data[first] &= ~(1 << 1 | 1 << 2 | 1 << 3)
    if libc.capset(header, data):
        raise OSError(ctypes.get_errno(), "capset")


class Startable(Protocol):
    """A command that can be started in its workspace, as often as wanted."""

    workspace: Path

    def start(self, before: Callable[[], None] = ...) -> Running:
        """Start it; `before` is called in the process that runs it, ahead of it."""


@dataclass(frozen=True)
class Usual:
    """An undisturbed run: its seconds, the bytes that it adds, and those of the largest file afterwards."""

    seconds: float
    new_bytes: int
    largest_file: int

    @property
    def patience(self) -> float:
        """Seconds after which a run counts as hanging."""
        return 60 + 20 * self.seconds


Disturbance = Callable[[Startable, Random, Usual], list[Ending]]


def killed(command: Startable, random: Random, usual: Usual) -> list[Ending]:
    """Up to three times, at a random moment."""
    endings = []
    for _ in range(random.choice((1, 1, 2, 3))):
        running = command.start()
        time.sleep(random.uniform(0, usual.seconds))
        endings.append(running.kill())
    return endings


def started_twice(command: Startable, random: Random, usual: Usual) -> list[Ending]:
    """A second time at a random moment of the first."""
    first = command.start()
    time.sleep(random.choice((0.0, random.uniform(0, usual.seconds))))
    second = command.start()
    return [first.wait(usual.patience), second.wait(usual.patience)]


def file_size_limit(command: Startable, random: Random, usual: Usual) -> list[Ending]:
    """RLIMIT_FSIZE below the largest file's size: writing more fails with EFBIG."""
    limit = random.randrange(max(1, usual.largest_file))

    def before() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    return [command.start(before).wait(usual.patience)]


def full_disk(command: Startable, random: Random, usual: Usual) -> list[Ending]:
    """A file system with room for a part of what the command writes; it grows afterwards. Needs the right to mount."""
    workspace = command.workspace
    held = workspace.with_name("held")
    workspace.rename(held)
    workspace.mkdir(mode=0o777)
    size = sum(-(-path.stat().st_size // 4096) * 4096 + 4096 for path in held.rglob("*"))
    options = f"size={size + 65536 + random.randrange(max(1, usual.new_bytes))}"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(workspace)], check=True, capture_output=True)
    shutil.copytree(held, workspace, symlinks=True, dirs_exist_ok=True)
    shutil.rmtree(held)
    ending = command.start().wait(usual.patience)
    subprocess.run(["mount", "-o", "remount,size=1g", str(workspace)], check=True, capture_output=True)
    return [ending]


def read_only(command: Startable, random: Random, usual: Usual) -> list[Ending]:
    """A file or folder of the workspace, or the workspace itself, can't be written to."""
    path = random.choice([command.workspace, *sorted(command.workspace.rglob("*"))])
    mode = path.stat().st_mode
    path.chmod(mode & ~0o222)
    try:
        return [command.start().wait(usual.patience)]
    finally:
        if path.exists():
            path.chmod(mode)


def truncated(command: Startable, random: Random, usual: Usual) -> list[Ending]:
    """A file of the workspace ends early, at the start or after a kill."""
    return _damaged(command, random, usual, lambda content: content[: random.randrange(len(content))])


def bit_flipped(command: Startable, random: Random, usual: Usual) -> list[Ending]:
    """A bit of a file of the workspace is wrong, at the start or after a kill."""

    def flip(content: bytes) -> bytes:
        place = random.randrange(len(content))
        return content[:place] + bytes([content[place] ^ 1 << random.randrange(8)]) + content[place + 1 :]

    return _damaged(command, random, usual, flip)


def _damaged(command: Startable, random: Random, usual: Usual, damage: Callable[[bytes], bytes]) -> list[Ending]:
    """An input that is damaged comes back afterwards, as from a backup. So does what the command made, if it refuses to go on."""
    inputs = set(command.workspace.rglob("*"))
    endings = killed(command, random, usual) if random.random() < 0.5 else []
    files = [path for path in sorted(command.workspace.rglob("*")) if path.is_file() and "logs" not in path.parts]
    path = random.choice([path for path in files if path.stat().st_size])
    content = path.read_bytes()
    damaged = damage(content)
    path.write_bytes(damaged)
    endings.append(command.start().wait(usual.patience))
    is_left = path.exists() and path.read_bytes() == damaged
    if is_left and (path in inputs or endings[-1].code):
        path.write_bytes(content)
    return endings


def clock_jumps(command: Startable, random: Random, usual: Usual) -> list[Ending]:
    """At a random moment, Python's clock jumps by a day, forwards or back."""
    moment, jump = random.uniform(0, usual.seconds), random.choice((86_400, -86_400))

    def before() -> None:
        real, start = time.time, time.monotonic()
        time.time = lambda: real() + (jump if time.monotonic() - start > moment else 0)

    return [command.start(before).wait(usual.patience)]


DISTURBANCES: dict[str, Disturbance] = {
    "killed": killed,
    "file size limit": file_size_limit,
    "full disk": full_disk,
    "read-only": read_only,
    "truncated": truncated,
    "bit flipped": bit_flipped,
    "started twice": started_twice,
    "clock jumps": clock_jumps,
}


def possible_disturbances() -> tuple[str, ...]:
    """All disturbances; without the right to mount (CAP_SYS_ADMIN), those that need no file system of their own."""
    status = Path("/proc/self/status").read_text()
    rights = next(int(line.split()[1], 16) for line in status.splitlines() if line.startswith("CapEff"))
    return tuple(name for name in DISTURBANCES if name != "full disk" or rights >> 21 & 1)
