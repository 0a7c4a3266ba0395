"""Where artefacts live: the folders data, output, predictions, stored_models and logs of one workspace."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from compositional.core.errors import UserError

# Names of folders among those of the experiments: the tables (output), and the logs of sweeps and of the preparation.
NO_EXPERIMENTS = ("tables", "sweep", "preparation")


@dataclass(frozen=True)
class Workspace:
    """The folder that holds the five artefact folders."""

    root: Path

    def prepared_data(self, dataset: str) -> Path:
        """The folder of a prepared data set."""
        return self.root / "data" / dataset

    def output(self, experiment: str) -> Path:
        """The folder of an experiment's results."""
        return self.root / "output" / experiment

    def results(self, experiment: str) -> Path:
        """An experiment's results.json, written last."""
        return self.output(experiment) / "results.json"

    def scores(self, experiment: str, stage: str) -> Path:
        """The scores of each example of a stage (valid or test)."""
        return self.output(experiment) / f"scores_{stage}.jsonl"

    def predictions_folder(self, experiment: str) -> Path:
        """The folder of an experiment's predictions and verdicts."""
        return self.root / "predictions" / experiment

    def predictions(self, experiment: str, stage: str) -> Path:
        """The predictions of a stage, once they are complete."""
        return self.predictions_folder(experiment) / f"{stage}.jsonl"

    def stored_model(self, name: str) -> Path:
        """The folder of a stored adapter."""
        return self.root / "stored_models" / name

    def training(self, name: str) -> Path:
        """Checkpoints of an adapter that is still in training."""
        return self.root / "stored_models" / f".{name}.training"

    def logs(self, experiment: str) -> Path:
        """The folder of an experiment's log and TensorBoard events."""
        return self.root / "logs" / experiment

    def verdicts(self, experiment: str, stage: str, judge: str) -> Path:
        """The verdicts of a judge on a stage's predictions."""
        return self.predictions_folder(experiment) / f"{stage}.judge_{judge}.jsonl"

    def judgement(self, experiment: str, judge: str) -> Path:
        """The record of a judge's verdicts on an experiment."""
        return self.output(experiment) / f"judge_{judge}.json"

    @contextmanager
    def locked(self, *, shared: bool = False, **held: str | None) -> Iterator[None]:
        """Lock things by kind and name during the block; raises UserError when another process holds one of the locks.

        Several processes may hold a shared lock, such as those that read the same experiment, while none writes it. These are
        kernel locks: they are released when the process ends, in whatever way.
        """
        names = {f"{kind.replace('_', ' ')} {name}": f"{kind}.{name}" for kind, name in held.items() if name}
        with ExitStack() as stack:
            for what, name in names.items():
                try:
                    self._locks.mkdir(parents=True, exist_ok=True)
                    # NFS wants a file open for reading for a shared lock, and for writing for the other.
                    file = stack.enter_context(open(self._locks / _shortened(name), "a+"))
                    fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
                except BlockingIOError:
                    raise UserError(f"{what} is in use by another run; wait for it to end or choose another name") from None
                except OSError as error:
                    fault = f"--workspace {self.root}: no lock can be made in {self._locks} ({error.strerror})"
                    unsupported = error.errno in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)
                    remedy = "; use a file system with locks (flock)" if unsupported else ""
                    raise UserError(f"{fault}{remedy}") from error
            yield

    @property
    def _locks(self) -> Path:
        return self.root / "output" / ".locks"

    def check_writable(self, *folders: Path) -> None:
        """Raise UserError for each of the folders, and for that of the locks, that can be neither written to nor made."""
        faults = [fault for folder in (self._locks, *folders) if (fault := why_unwritable(folder))]
        if faults:
            raise UserError(*dict.fromkeys(f"--workspace {self.root}: {fault}" for fault in faults))

    def check_space(self, needed: int) -> None:
        """Raise UserError when the workspace's file system has less free space (bytes) than a command is about to write."""
        root = self.root.absolute()
        free = shutil.disk_usage(next(folder for folder in (root, *root.parents) if folder.exists())).free
        if free < needed:
            raise UserError(f"--workspace {self.root}: about {_rounded(needed)} will be written, and {_rounded(free)} are free")


def _rounded(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{-(-size // 1_000_000)} MB"


_LONGEST_FILE_NAME = 255  # bytes


def _shortened(name: str) -> str:
    """The name of a file, with a digest in place of the end of one that is too long."""
    if len(name.encode()) <= _LONGEST_FILE_NAME:
        return name
    return f"{name.encode()[:150].decode(errors='ignore')}.{hashlib.sha256(name.encode()).hexdigest()}"


def why_unwritable(folder: Path) -> str | None:
    """Why a folder can be neither written to nor made; None if it can, as far as can be said without writing."""
    folder = folder.absolute()
    existing = next(parent for parent in (folder, *folder.parents) if os.path.lexists(parent))
    if existing.is_symlink() and not existing.exists():
        return f"{existing} is a link to nothing"
    if not existing.is_dir():
        return f"{existing} is not a folder"
    return None if os.access(existing, os.W_OK | os.X_OK) else f"{existing} can't be written to"
