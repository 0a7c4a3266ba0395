"""Writes exports: an adapter in PEFT's format, or a whole model in that of transformers."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compositional.adapters.peft_folder import rounded, write_adapter
from compositional.core.files import folder_in_the_making, write_json
from compositional.core.machine import environment
from compositional.export.plan import GGUF, MERGED, ExportPlan
from compositional.formats.gguf import write_base, write_lora

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel

    from compositional.adapters.lora import LoraAdapter

logger = logging.getLogger(__name__)

RECORD = "export.json"


def write_export(plan: ExportPlan) -> Path:
    """Write the export's folder, whole or not at all, with a record of its files; returns the folder.

    Raises UserError for values that the precision can't hold.
    """
    model = _merged_model(plan) if plan.arguments.to == MERGED else None
    adapter = None if model is not None or not plan.adapter else _adapter(plan)
    more: dict[str, Any] = {} if adapter is None else adapter.report | {"rank": max(one.rank for one in adapter.factors.values())}
    with folder_in_the_making(plan.folder) as folder:
        if model is not None:
            model.save_pretrained(folder)
            plan.experiment.base.tokenizer.save_pretrained(folder)
        elif plan.arguments.to == GGUF:
            more["serve"] = _write_gguf(plan, adapter, folder)
        else:
            write_adapter(folder, adapter, plan.arguments.dtype)
        files = {path.name: {"bytes": path.stat().st_size, "sha256": _sha256(path)} for path in sorted(folder.iterdir())}
        record = {
            "experiment": plan.arguments.experiment_name,
            "method": plan.experiment.method,
            "to": plan.arguments.to,
            "dtype": plan.arguments.dtype,
            "base_model": plan.experiment.base.name,
            "hash_of_base_model": plan.experiment.base.identity,
            "hash_of_adapter": plan.adapter.hash if plan.adapter else None,
            "files": files,
            **more,
            "environment": environment(),
        }
        write_json(folder / RECORD, record)
    logger.info("%s: %d bytes", plan.folder, sum(one["bytes"] for one in files.values()))
    return plan.folder


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _adapter(plan: ExportPlan) -> LoraAdapter:
    """What the experiment answers with, compact if that was asked for."""
    from compositional.adapters.low_rank import compacted

    adapter = plan.adapter.read()
    return compacted(adapter, plan.arguments.compact_rank) if plan.arguments.compact_rank else adapter


def _write_gguf(plan: ExportPlan, adapter: LoraAdapter | None, folder: Path) -> str:
    """Base model, adapter and biases; returns the command that serves them."""
    base, dtype = plan.experiment.base, plan.arguments.dtype
    first = write_base(folder / "base.gguf", base, dtype, plan.biases)[0]
    lora = ""
    if adapter:
        write_lora(folder / "adapter.gguf", base, adapter, dtype)
        lora = " --lora adapter.gguf"
    return f"llama-server -m {first.name}{lora} -c {min(4096, base.longest_sequence or 4096)}"


def _merged_model(plan: ExportPlan) -> PreTrainedModel:
    """The model with the adapter's updates, added in float32, and a calibration's biases in its weights."""
    import torch

    from compositional.training.corrected import fold_adapter

    model = plan.experiment.base.load(torch.float32).to("cpu")
    if plan.adapter:
        fold_adapter(model, plan.adapter.read())
    if plan.biases:
        model = _with_biases(model, plan.configuration, plan.biases)
    rounded(dict(model.named_parameters()), plan.arguments.dtype)  # which refuses what it can't hold
    return model.to(getattr(torch, plan.arguments.dtype))


def _with_biases(model: PreTrainedModel, config: PretrainedConfig, biases: dict[str, torch.Tensor]) -> PreTrainedModel:
    """The model in another configuration's form: its weights, its own biases plus the calibration's, and zeros elsewhere."""
    import torch
    from transformers import AutoModelForCausalLM

    weights = model.state_dict()
    for path, bias in biases.items():
        own = weights.get(f"{path}.bias")
        weights[f"{path}.bias"] = bias if own is None else own + bias
    new = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    new.generation_config = model.generation_config
    absent, unknown = new.load_state_dict(weights, strict=False)
    if unknown or not all(name.endswith(".bias") or "lm_head" in name for name in absent):
        raise ValueError(f"the weights do not fit {config.model_type}: {[*absent, *unknown]}")
    with torch.no_grad():
        for name, parameter in new.named_parameters():
            if name in absent and name.endswith(".bias"):
                parameter.zero_()
    return new
