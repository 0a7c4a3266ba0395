"""The one exception for a user's mistake: shown as one line per mistake, exit code 2, never as a traceback.

Errors of the machine, such as a full disk, also become one line. Other exceptions are faults of this project: tracebacks.
"""

from __future__ import annotations

import difflib
import errno
import os
import re
from collections.abc import Iterable, Iterator
from typing import Any


class UserError(Exception):
    """One or more mistakes of the user. Each is a line that says what is wrong, where, and what to do."""

    def __init__(self, *mistakes: str) -> None:
        super().__init__("\n".join(mistakes))
        self.mistakes = mistakes


class Mistakes(list):
    """Collects UserErrors, so that all of them can be shown at once."""

    def attempt(self, function: Any, *arguments: Any) -> Any:
        """Return the function's result. If it raises UserError, collect its mistakes and return None."""
        try:
            return function(*arguments)
        except UserError as error:
            self.extend(error.mistakes)
            return None

    def when(self, wrong: bool, message: str) -> None:
        """Collect the message if `wrong` is true."""
        if wrong:
            self.append(message)


# Errors of the file system that only its owner can mend. A missing file is not among them, since it may be a fault of ours.
_OF_THE_MACHINE = {
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ESTALE, errno.ETXTBSY),
    *(errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, errno.ENOTEMPTY, errno.EBUSY, errno.EMFILE, errno.ENFILE, errno.ENODEV),
    *(errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EREMOTEIO, errno.ETIMEDOUT, errno.EHOSTDOWN),
}
# Libraries replace these by errors of their own, which have them as their context.
_WHATEVER_FOLLOWED = {errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ESTALE}
_REMEDIES = {
    errno.ENOSPC: "the same command goes on once there is space",
    errno.EDQUOT: "the same command goes on once there is space",
    errno.EFBIG: "the same command goes on with a higher limit of file sizes (ulimit -f)",
    errno.EMFILE: "the same command goes on with a higher limit of open files (ulimit -n)",
}


# numpy's `tofile` and `torch.save` say nothing else of a disk that is full, or of a limit of file sizes.
_WRITTEN_IN_PART = re.compile(
    r"\d+ requested and \d+ written|inline_container.*unexpected pos \d+ vs \d+|PytorchStreamWriter failed"
)


def fault_of_machine(error: BaseException) -> str | None:
    """An error of the file system as one line: file, fault and remedy; None for any other error.

    Errors of libraries that stand for one are recognised by the number in their message, or by their context.
    """
    if isinstance(error, FileNotFoundError) and "No usable temporary directory" in str(error):
        return f"{error.strerror}; TMPDIR names one"
    if isinstance(error, OSError | RuntimeError) and _WRITTEN_IN_PART.search(str(error)):
        return f"a file could be written in part only; {_REMEDIES[errno.ENOSPC]}, or a higher limit of file sizes"
    for depth, one in enumerate(_with_contexts(error)):
        number = _error_number(one)
        if number in _WHATEVER_FOLLOWED or (depth == 0 and number in _OF_THE_MACHINE):
            name = getattr(one, "filename", None)
            where = f"{os.fsdecode(name)}: " if isinstance(name, str | bytes) else ""
            remedy = f"; {_REMEDIES[number]}" if number in _REMEDIES else ""
            return f"{where}{os.strerror(number)}{remedy}"
    return None


def _with_contexts(error: BaseException | None) -> Iterator[BaseException]:
    while error:
        yield error
        error = error.__cause__ or error.__context__


def _error_number(error: BaseException) -> int | None:
    """The system's number of an error; libraries written in Rust or C++ have it in their message."""
    if isinstance(error, OSError) and error.errno:
        return error.errno
    found = re.search(r"\((?:os error|errno) (\d+)\)|\[errno (\d+)\]", str(error), re.IGNORECASE)
    return int(found[1] or found[2]) if found else None


def first_line(error: Exception) -> str:
    """The first line of another library's message, or the name of the error's class if the message is empty.

    A line that ends in a colon has the next one behind it.
    """
    first, *others = str(error).strip().splitlines() or [type(error).__name__]
    return f"{first} {others[0].strip()}" if others and first.endswith(":") else first


def nearest(name: str, known: Iterable[str]) -> str:
    """The known names closest to a misspelt one, as the end of a message: "did you mean ...?"."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    if close:
        return f"did you mean {' or '.join(close)}?"
    return f"known: {', '.join(known)}" if len(known) <= 12 else f"{len(known)} are known, such as {', '.join(known[:6])}"
