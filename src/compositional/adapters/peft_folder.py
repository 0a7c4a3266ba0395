"""PEFT's folder format: adapter_config.json (see `peft_config`) and adapter_model.safetensors."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compositional.adapters.lora import LoraAdapter, LoraFactors, module_type
from compositional.adapters.peft_config import AdapterConfig, plain_config
from compositional.core.errors import UserError, first_line
from compositional.core.files import hash_of_files, read_tensor_shapes, write_json

if TYPE_CHECKING:
    import torch

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
CALIBRATION_FILE = "calibration.safetensors"
LEARNED_FILE = "learned_merge.safetensors"
_KEY = re.compile(r"^base_model\.model\.(?P<path>.+)\.lora_(?P<factor>[AB])\.weight$")


@dataclass(frozen=True)
class StoredAdapter:
    """An adapter in a folder. Its properties are read from the files on first use and cached.

    Share one object for one adapter, so that a command hashes the files only once.
    """

    folder: Path

    @property
    def name(self) -> str:
        """The folder's name, by which commands name the adapter."""
        return self.folder.name

    @cached_property
    def config(self) -> AdapterConfig:
        """See `read_config`."""
        return read_config(self.folder)

    @cached_property
    def shapes(self) -> dict[str, tuple[int, int]]:
        """(d_out, d_in) of each module that it updates; see `read_shapes`."""
        return read_shapes(self.folder)

    @cached_property
    def ranks(self) -> dict[str, int]:
        """The rank of each module that it updates; see `read_ranks`."""
        return read_ranks(self.folder)

    @cached_property
    def rank(self) -> int:
        """The highest rank among its modules."""
        return max(self.ranks.values())

    @cached_property
    def has_biases(self) -> bool:
        """Whether the folder also has the biases of a Learnable Calibration."""
        return has_biases(self.folder)

    @cached_property
    def hash(self) -> str:
        """SHA-256 of its configuration, weights and calibration. It identifies the adapter by content, whatever its name."""
        return hash_of_adapter(self.folder)

    @cached_property
    def hash_of_calibration(self) -> str:
        """SHA-256 of its calibration's file alone."""
        return hash_of_files([self.folder / CALIBRATION_FILE])

    def check_finite(self) -> None:
        """Raise UserError when a value of its weights or of its calibration is no number."""
        for name in (WEIGHTS_FILE, CALIBRATION_FILE):
            if (self.folder / name).is_file():
                check_finite(self.folder / name)

    def read(self) -> LoraAdapter:
        """Its tensors; see `read_adapter`."""
        return read_adapter(self.folder)


def read_config(folder: Path) -> AdapterConfig:
    """Read adapter_config.json; raises UserError for a folder without an adapter, and as `plain_config` does.

    So it does for damaged weights, and for settings that do not fit their factors.
    """
    path = folder / CONFIG_FILE
    if not path.is_file() or not (folder / WEIGHTS_FILE).is_file():
        raise UserError(f"{folder} holds no adapter: {CONFIG_FILE} and {WEIGHTS_FILE} are expected there")
    config = plain_config(path)
    if fault := config.fault(read_ranks(folder)):
        raise UserError(f"{path} does not fit {WEIGHTS_FILE}: {fault}")
    return config


def check_has_no_biases(folder: Path) -> None:
    """Raise UserError for a Learnable Calibration: a merge of LoRA factors would lose its biases."""
    if has_biases(folder):
        raise UserError(f"adapter {folder.name} is a Learnable Calibration: its biases would be lost in a merge")


def has_biases(folder: Path) -> bool:
    """Whether an adapter's folder also has the biases of a Learnable Calibration."""
    path = folder / CALIBRATION_FILE
    return path.is_file() and any(key.startswith("p.") for key in read_tensor_shapes(path))


def read_shapes(folder: Path) -> dict[str, tuple[int, int]]:
    """(d_out, d_in) of each module that the adapter updates, from the file's header alone.

    Raises UserError for a damaged file, and for tensors that are not factors of a plain LoRA.
    """
    return {module: (pair["B"][0], pair["A"][1]) for module, pair in _shapes_of_factors(folder / WEIGHTS_FILE).items()}


def read_ranks(folder: Path) -> dict[str, int]:
    """The rank of each module that the adapter updates, from the file's header alone; raises UserError as `read_shapes` does."""
    return {module: pair["A"][0] for module, pair in _shapes_of_factors(folder / WEIGHTS_FILE).items()}


def _shapes_of_factors(path: Path) -> dict[str, dict[str, list[int]]]:
    """The shapes of A and B of each module."""
    factors: dict[str, dict[str, list[int]]] = {}
    for key, shape in read_tensor_shapes(path).items():
        match = _KEY.match(key)
        if not match:
            raise UserError(f"{path}: {key} is not a factor of a plain LoRA adapter")
        if len(shape) != 2 or 0 in shape:
            raise UserError(
                f"{path} is damaged: {key} has the shape {shape}; a training with DeepSpeed must gather its weights before it saves"
            )
        factors.setdefault(match["path"], {})[match["factor"]] = shape
    if incomplete := [module for module, pair in factors.items() if len(pair) < 2]:
        raise UserError(f"{path} is damaged: {incomplete[0]} has one factor only")
    if not factors:
        raise UserError(f"{path} is damaged: it has no factors")
    for module, pair in factors.items():
        if pair["A"][0] != pair["B"][1]:
            raise UserError(f"{path} is damaged: the factors of {module} have the ranks {pair['A'][0]} and {pair['B'][1]}")
    return factors


def check_finite(path: Path) -> None:
    """Raise UserError when a safetensors file is damaged, or has values that are no numbers; it then names the tensor."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118 (it is no mapping)
                if not file.get_tensor(name).isfinite().all():
                    raise UserError(f"{path}: {name} has values that are no numbers: train it again")
    except SafetensorError as error:
        raise UserError(f"{path} is damaged: {first_line(error)}") from error


def read_adapter(folder: Path) -> LoraAdapter:
    """Read an adapter's tensors; raises UserError for tensors that are not LoRA factors, or not finite."""
    from safetensors.torch import load_file

    config = read_config(folder)
    read_shapes(folder)
    pairs: dict[str, dict[str, Any]] = {}
    check_finite(folder / WEIGHTS_FILE)
    for key, tensor in load_file(folder / WEIGHTS_FILE).items():
        match = _KEY.match(key)
        pairs.setdefault(match["path"], {})[match["factor"]] = tensor
    factors = {
        path: LoraFactors(pair["A"], pair["B"], config.scaling(path, pair["A"].shape[0])) for path, pair in sorted(pairs.items())
    }
    return LoraAdapter(folder.name, config.base_model, factors, config.use_rslora)


def write_adapter(folder: Path, adapter: LoraAdapter, dtype: str) -> None:
    """Write an adapter that PEFT and vLLM load without changes: one rank and one alpha for all modules, no patterns.

    Smaller ranks are padded with zeros. Unequal scalings are folded into B, and alpha is then the rank. Parameters that a merge
    has learned are written to a file of their own. Raises UserError for values that the precision can't hold.
    """
    import torch
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    rank = max(factors.rank for factors in adapter.factors.values())
    scalings = {factors.scaling for factors in adapter.factors.values()}
    common_scaling = scalings.pop() if len(scalings) == 1 else 1.0
    tensors = {}
    for path, factors in adapter.factors.items():
        missing = rank - factors.rank
        A = torch.nn.functional.pad(factors.A.float(), (0, 0, 0, missing))
        B = torch.nn.functional.pad(factors.B.float() * (factors.scaling / common_scaling), (0, missing))
        tensors[f"base_model.model.{path}.lora_A.weight"] = A
        tensors[f"base_model.model.{path}.lora_B.weight"] = B
    save_file(rounded(tensors, dtype), folder / WEIGHTS_FILE, metadata={"format": "pt"})
    if adapter.learned:
        save_file(rounded(adapter.learned, dtype), folder / LEARNED_FILE)
    alpha = common_scaling * rank
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": adapter.base_model,
        "r": rank,
        "lora_alpha": int(alpha) if alpha == int(alpha) else alpha,
        "target_modules": sorted({module_type(path) for path in adapter.factors}),
        "lora_dropout": 0.0,
        "bias": "none",
        "inference_mode": True,
    }
    write_json(folder / CONFIG_FILE, config)


def rounded(tensors: dict[str, torch.Tensor], dtype: str) -> dict[str, torch.Tensor]:
    """The tensors in a precision, ready to be written; raises UserError for values that it can't hold."""
    import torch

    kind = getattr(torch, dtype)
    converted = {name: tensor.detach().cpu().to(kind).contiguous() for name, tensor in tensors.items()}
    for name, tensor in converted.items():
        if tensors[name].isnan().any():
            raise UserError(f"{name} has values that are no numbers: the training diverged; lower the learning rate")
        if not tensor.isfinite().all():
            largest = tensors[name].abs().max().item()
            raise UserError(f"{name} has values up to {largest:.3g}, too large for {dtype}: use another --adapter_dtype")
    return converted


def hash_of_adapter(folder: Path) -> str:
    """SHA-256 of an adapter's configuration, weights and calibration (where it has one)."""
    names = [CONFIG_FILE, WEIGHTS_FILE, CALIBRATION_FILE]
    return hash_of_files([folder / name for name in names if (folder / name).is_file()])
