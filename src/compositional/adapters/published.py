"""Published adapters: a hub id, hub_id@revision or a folder. Pickled tensors are converted only on request."""

from __future__ import annotations

import fcntl
import logging
import shutil
from pathlib import Path

from compositional.adapters.peft_config import plain_config
from compositional.adapters.peft_folder import CONFIG_FILE, WEIGHTS_FILE
from compositional.core.errors import UserError, first_line
from compositional.core.files import folder_in_the_making, read_tensor_shapes
from compositional.core.hub import hub_errors
from compositional.models.model import Model

logger = logging.getLogger(__name__)

PICKLED_WEIGHTS_FILE = "adapter_model.bin"


def check_published_adapter(adapter: Model, may_convert: bool) -> None:
    """Raise UserError when an adapter can't be loaded, or has only pickled weights and `may_convert` is false."""
    if adapter.name.startswith((".", "/", "~")) and not adapter.is_local:
        raise UserError(f"{adapter.flag} {adapter.name}: there is no such folder")
    if not _file(adapter, CONFIG_FILE):
        raise UserError(f"{adapter.flag} {adapter.name}: it has no {CONFIG_FILE}")
    if weights := _file(adapter, WEIGHTS_FILE):
        read_tensor_shapes(weights)
    elif not _file(adapter, PICKLED_WEIGHTS_FILE):
        raise UserError(f"{adapter.flag} {adapter.name}: it has no {WEIGHTS_FILE}")
    elif not may_convert:
        raise UserError(
            f"{adapter.flag} {adapter.name}: it has only {PICKLED_WEIGHTS_FILE}, a pickle; "
            "--convert_pickled_adapter allows loading its tensors (nothing else in it is run) and stores them as safetensors"
        )


def check_is_plain(adapter: Model) -> None:
    """Raise UserError when an adapter is not a plain LoRA; see `peft_config`."""
    plain_config(_file(adapter, CONFIG_FILE))


def adapter_to_load(adapter: Model, converted: Path | None) -> Model:
    """The adapter itself, or its converted copy in the folder `converted` if it was published only as a pickle.

    Raises UserError as `check_published_adapter` does.
    """
    check_published_adapter(adapter, may_convert=converted is not None)
    if _file(adapter, WEIGHTS_FILE):
        return adapter
    folder = converted / adapter.identity_without_network.replace("/", "--")
    converted.mkdir(parents=True, exist_ok=True)
    with open(converted / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # wait for another run that may be converting it
        if not (folder / WEIGHTS_FILE).is_file():
            _convert(adapter, folder)
    return Model(str(folder), adapter.flag)


def _convert(adapter: Model, folder: Path) -> None:
    """Convert an adapter's pickled tensors to safetensors; copy its configuration. torch's restricted reader takes tensors only."""
    from pickle import UnpicklingError

    import torch
    from safetensors.torch import save_file

    try:
        tensors = torch.load(_file(adapter, PICKLED_WEIGHTS_FILE), map_location="cpu", weights_only=True)
    except (UnpicklingError, RuntimeError, EOFError, KeyError, OSError) as error:  # depending on where the file is damaged
        tensors, reason = None, error
    else:
        reason = None
    if not isinstance(tensors, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in tensors.values()):
        fault = f"{PICKLED_WEIGHTS_FILE} is damaged, or holds more than tensors: it was not read"
        raise UserError(f"{adapter.flag} {adapter.name}: {fault}") from reason
    with folder_in_the_making(folder) as unfinished:
        # Copy the tensors: safetensors refuses tensors that share memory.
        save_file({name: tensor.clone().contiguous() for name, tensor in tensors.items()}, unfinished / WEIGHTS_FILE)
        shutil.copyfile(_file(adapter, CONFIG_FILE), unfinished / CONFIG_FILE)
    logger.info("%s was converted to safetensors in %s", adapter.name, folder)


def _file(adapter: Model, name: str) -> Path | None:
    """The path of an adapter's file, downloaded from the hub if necessary; None when there is no such file."""
    if adapter.is_local:
        path = Path(adapter.location) / name
        return path if path.is_file() else None
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(adapter.location, name, revision=adapter.requested_revision))
    except EntryNotFoundError as error:
        if not isinstance(error, LocalEntryNotFoundError):  # a LocalEntryNotFoundError means that there is no network
            return None
        raise UserError(f"{adapter.flag} {adapter.name} could not be loaded: {first_line(error)}") from error
    except hub_errors() as error:
        raise UserError(f"{adapter.flag} {adapter.name} could not be loaded: {first_line(error)}") from error
