"""Models by their publishers' names: a hub id, a hub id@revision or a folder. Safetensors only; clear words when one is missing."""

from __future__ import annotations

import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from src.errors import UserError, first_line
from src.files import folder_in_the_making, hash_of_files
from src.prediction.backends import resolve_dtype
from src.processes import device_name

logger = logging.getLogger(__name__)

ADAPTER_FILE = "adapter_model.safetensors"
PICKLED_ADAPTER_FILE = "adapter_model.bin"


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
        kinds = ("*.json", "*.safetensors", "*.spm", "*.model", "*.txt")
        return hash_of_files(sorted(path for kind in kinds for path in Path(self.name).glob(kind)))


def check_published(published: PublishedModel, flag: str) -> Any:
    """A model's configuration; raises UserError when the hub or the folder hasn't got it."""
    from transformers import AutoConfig

    name = published.name
    if name.startswith((".", "/", "~")) and not published.is_local:
        raise UserError(f"{flag} {name}: there is no such folder")
    if published.is_local and not (Path(name) / "config.json").is_file():
        raise UserError(f"{flag} {name}: the folder has no config.json, so it holds no model")
    if published.is_local and not any(Path(name).glob("*.safetensors")):
        raise UserError(f"{flag} {name}: the folder has no weights (*.safetensors)")
    try:
        return AutoConfig.from_pretrained(published.location, revision=published.revision)
    except (OSError, ValueError) as error:
        raise UserError(_not_to_be_had(published, flag, error)) from error


def load_published(kind: Any, published: PublishedModel, dtype: str | None = None, **options: Any) -> Any:
    """A tokenizer (no dtype), or a model in evaluation mode on this process's device, of an Auto class of transformers."""
    weights = {} if dtype is None else {"dtype": resolve_dtype(dtype), "use_safetensors": True}
    try:
        loaded = kind.from_pretrained(published.location, revision=published.revision, **weights, **options)
    except (OSError, ValueError) as error:
        raise UserError(_not_to_be_had(published, "text model", error)) from error
    return loaded if dtype is None else loaded.eval().to(device_name())


def check_adapter(adapter: PublishedModel, converted: Path | None) -> PublishedModel:
    """The adapter, or its converted copy where its publishers have pickled weights only.

    Raises UserError when it can't be had, or has pickled weights only and no folder for a converted copy is given.
    """
    if _has_file(adapter, ADAPTER_FILE):
        return adapter
    if not _has_file(adapter, PICKLED_ADAPTER_FILE):
        raise UserError(f"--tone_rewriter_adapter {adapter.name}: it has no {ADAPTER_FILE}")
    if converted is None:
        raise UserError(
            f"--tone_rewriter_adapter {adapter.name}: its publishers have {PICKLED_ADAPTER_FILE} only, a pickle, which is not read "
            "unasked; --convert_pickled_adapter reads its tensors (nothing else in it is run) and keeps them as safetensors"
        )
    folder = converted / adapter.identity().replace("/", "--")
    if not (folder / ADAPTER_FILE).is_file():
        convert_adapter(adapter, folder)
    return PublishedModel(str(folder))


def convert_adapter(adapter: PublishedModel, folder: Path) -> None:
    """Write an adapter's pickled tensors as safetensors, beside its configuration. torch's restricted reader takes tensors only."""
    from pickle import UnpicklingError

    import torch
    from safetensors.torch import save_file

    source = _file(adapter, PICKLED_ADAPTER_FILE)
    try:
        tensors = torch.load(source, map_location="cpu", weights_only=True)
    except (UnpicklingError, RuntimeError) as error:
        raise UserError(
            f"{adapter.name}: {PICKLED_ADAPTER_FILE} holds more than tensors, or is damaged: it was not read"
        ) from error
    with folder_in_the_making(folder) as unfinished:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, unfinished / ADAPTER_FILE)
        shutil.copyfile(_file(adapter, "adapter_config.json"), unfinished / "adapter_config.json")
    logger.info("%s was converted to safetensors in %s", adapter.name, folder)


def _has_file(published: PublishedModel, name: str) -> bool:
    if published.is_local:
        return (Path(published.name) / name).is_file()
    from huggingface_hub.errors import EntryNotFoundError

    try:
        return _file(published, name).is_file()
    except EntryNotFoundError:
        return False


def _file(published: PublishedModel, name: str) -> Path:
    if published.is_local:
        return Path(published.name) / name
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(published.location, name, revision=published.revision))
    except LocalEntryNotFoundError as error:  # no network; it is an EntryNotFoundError, too
        raise UserError(_not_to_be_had(published, "--tone_rewriter_adapter", error)) from error
    except EntryNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise UserError(_not_to_be_had(published, "--tone_rewriter_adapter", error)) from error


def _not_to_be_had(published: PublishedModel, flag: str, error: Exception) -> str:
    return f"{flag} {published.name} could not be had: {first_line(error)}"
