"""X"""

from __future__ import annotations

import fcntl
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from compositional.core.errors import UserError, first_line
from compositional.core.files import folder_in_the_making, hash_of_files, read_tensor_shapes
from compositional.core.hub import hub_errors
from compositional.core.machine import device_name, resolve_dtype

logger = logging.getLogger(__name__)

ADAPTER_FILE = "adapter_model.safetensors"
PICKLED_ADAPTER_FILE = "adapter_model.bin"
ADAPTER_CONFIG_FILE = "adapter_config.json"


@dataclass(frozen=True)
class PublishedModel:
    """A model by its name: a local folder, a hub id, or a hub id with @revision."""

    name: str

    @property
    def is_local(self) -> bool:
        return Path(self.name).is_dir()

    @property
    def location(self) -> str:
        return self.name if self.is_local else self.name.partition("@")[0]

    @property
    def revision(self) -> str:
        """The hub's branch, tag, pull request or commit."""
        return "main" if self.is_local else self.name.partition("@")[2] or "main"

    def identity(self) -> str:
        """The hub id and revision, or a hash of a local folder's files."""
        if not self.is_local:
            return f"{self.location}@{self.revision}"
        kinds = ("*.json", "*.safetensors", "*.spm", "*.model", "*.txt", PICKLED_ADAPTER_FILE)
        paths = sorted(path for kind in kinds for path in Path(self.name).glob(kind))
        return _hash_of_unchanged(tuple((path, path.stat().st_mtime_ns, path.stat().st_size) for path in paths))


@cache
def _hash_of_unchanged(files: tuple[tuple[Path, int, int], ...]) -> str:
    """The hash of files (path, time of the last change, size), some of which have many gigabytes: computed once."""
    return hash_of_files([path for path, _, _ in files])


def check_published(published: PublishedModel, flag: str) -> Any:
    """A model's configuration; raises UserError when the hub or the folder hasn't got it, or the folder has no whole weights."""
    from transformers import AutoConfig

    _check_folder(published, flag)
    folder = Path(published.name)
    if published.is_local:
        if not (folder / "config.json").is_file():
            raise UserError(f"{flag} {folder}: the folder has no config.json, so it holds no model")
        weights = sorted(folder.glob("*.safetensors"))
        if not weights:
            raise UserError(f"{flag} {folder}: the folder has no weights (*.safetensors)")
        for path in weights:
            read_tensor_shapes(path)
    with _errors_of(published, flag):
        return AutoConfig.from_pretrained(published.location, revision=published.revision)


def check_files(published: PublishedModel, flag: str, *names: str) -> None:
    """Raise UserError when a local folder lacks one of the files; on a hub they are looked for when they are loaded."""
    missing = [name for name in names if published.is_local and not (Path(published.name) / name).is_file()]
    if missing:
        raise UserError(f"{flag} {published.name}: the folder has no {' and no '.join(missing)}")


def load_published(kind: Any, published: PublishedModel, flag: str, dtype: str | None = None, **options: Any) -> Any:
    """A tokenizer (no dtype), or a model in evaluation mode on this process's device, of an Auto class of transformers."""
    weights = {} if dtype is None else {"dtype": resolve_dtype(dtype), "use_safetensors": True}
    with _errors_of(published, flag):
        loaded = kind.from_pretrained(published.location, revision=published.revision, **weights, **options)
    return loaded if dtype is None else loaded.eval().to(device_name())


def check_adapter(adapter: PublishedModel, flag: str, may_convert: bool) -> None:
    """Raise UserError when an adapter can't be had, or has pickled weights only that may not be converted."""
    _check_folder(adapter, flag)
    if not _file(adapter, ADAPTER_CONFIG_FILE, flag):
        raise UserError(f"{flag} {adapter.name}: it has no {ADAPTER_CONFIG_FILE}")
    if weights := _file(adapter, ADAPTER_FILE, flag):
        read_tensor_shapes(weights)
    elif not _file(adapter, PICKLED_ADAPTER_FILE, flag):
        raise UserError(f"{flag} {adapter.name}: it has no {ADAPTER_FILE}")
    elif not may_convert:
        raise UserError(
            f"{flag} {adapter.name}: its publishers have {PICKLED_ADAPTER_FILE} only, a pickle, which is not read "
            "unasked; --convert_pickled_adapter reads its tensors (nothing else in it is run) and keeps them as safetensors"
        )


def adapter_to_load(adapter: PublishedModel, flag: str, converted: Path | None) -> PublishedModel:
    """The adapter, or its copy below `converted` where its publishers have pickled weights only; see `check_adapter`."""
    check_adapter(adapter, flag, may_convert=converted is not None)
    if _file(adapter, ADAPTER_FILE, flag):
        return adapter
    folder = converted / adapter.identity().replace("/", "--")
    converted.mkdir(parents=True, exist_ok=True)
    with open(converted / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another run may be converting it: wait
        if not (folder / ADAPTER_FILE).is_file():
            _convert(adapter, flag, folder)
    return PublishedModel(str(folder))


def _convert(adapter: PublishedModel, flag: str, folder: Path) -> None:
    """Write an adapter's pickled tensors as safetensors, beside its configuration. torch's restricted reader takes tensors only."""
    from pickle import UnpicklingError

    import torch
    from safetensors.torch import save_file

    try:
        tensors = torch.load(_file(adapter, PICKLED_ADAPTER_FILE, flag), map_location="cpu", weights_only=True)
    except (
        UnpicklingError,
        RuntimeError,
        EOFError,
        KeyError,
        OSError,
    ) as error:  # what it raises depends on where a file is broken
        tensors, reason = None, error
    else:
        reason = None
    if not isinstance(tensors, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in tensors.values()):
        fault = f"{PICKLED_ADAPTER_FILE} is damaged, or holds more than tensors: it was not read"
        raise UserError(f"{flag} {adapter.name}: {fault}") from reason
    with folder_in_the_making(folder) as unfinished:
        # Copies, for safetensors refuses tensors that share memory.
        save_file({name: tensor.clone().contiguous() for name, tensor in tensors.items()}, unfinished / ADAPTER_FILE)
        shutil.copyfile(_file(adapter, ADAPTER_CONFIG_FILE, flag), unfinished / ADAPTER_CONFIG_FILE)
    logger.info("%s was converted to safetensors in %s", adapter.name, folder)


def _check_folder(published: PublishedModel, flag: str) -> None:
    if published.name.startswith((".", "/", "~")) and not published.is_local:
        raise UserError(f"{flag} {published.name}: there is no such folder")


def _file(published: PublishedModel, name: str, flag: str) -> Path | None:
    """A file of a model, fetched where it is on the hub; None when the model has no such file."""
    if published.is_local:
        path = Path(published.name) / name
        return path if path.is_file() else None
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    with _errors_of(published, flag):
        try:
            return Path(hf_hub_download(published.location, name, revision=published.revision))
        except LocalEntryNotFoundError:  # no network; it is an EntryNotFoundError, too
            raise
        except EntryNotFoundError:
            return None


@contextmanager
def _errors_of(published: PublishedModel, flag: str) -> Iterator[None]:
    """Turns a hub's or a library's refusal into a UserError."""
    try:
        yield
    except hub_errors() as error:
        raise UserError(f"{flag} {published.name} could not be had: {first_line(error)}") from error
