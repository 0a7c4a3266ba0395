"""Writes exports: an adapter in PEFT's format, or a whole model in that of transformers."""

from __future__ import annotations

import logging
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compositional.adapters.peft_folder import rounded, write_adapter
from compositional.core.files import folder_in_the_making
from compositional.core.machine import environment
from compositional.core.recorded import write_record
from compositional.export.plan import GGUF, MERGED, RECORD, ExportPlan, digest_of
from compositional.formats.gguf import identity_of, write_base, write_lora

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel

    from compositional.adapters.lora import LoraAdapter

logger = logging.getLogger(__name__)

_LONGEST_CONTEXT = 4096  # tokens that a server is started with, where the model takes more


def write_export(plan: ExportPlan) -> Path:
    """Write the export's folder, whole or not at all, with a record of its files; returns the folder.

    Raises UserError for values that the precision can't hold.
    """
    to, dtype = plan.arguments.to, plan.arguments.dtype
    more: dict[str, Any] = {}
    with folder_in_the_making(plan.folder) as folder:
        if to == MERGED:
            model = _merged_model(plan)
            model.save_pretrained(folder)
            plan.experiment.base.tokenizer.save_pretrained(folder)
        else:
            adapters = [_compacted(stored.read(), plan.arguments.compact_rank) for stored in plan.adapters]
            if to == GGUF:
                more = _write_gguf(plan, adapters, folder)
            else:
                write_adapter(folder, adapters[0], dtype)
            more["adapters"] = [
                {"hash_of_adapter": stored.hash, "rank": max(one.rank for one in adapter.factors.values()), **adapter.report}
                for stored, adapter in zip(plan.adapters, adapters, strict=True)
            ]
        files = {str(path.relative_to(folder)): digest_of(path) for path in sorted(folder.rglob("*")) if path.is_file()}
        record = {
            "experiment": plan.arguments.experiment_name,
            "method": plan.experiment.method,
            "to": to,
            "dtype": dtype,
            "base_model": plan.experiment.base.name,
            "hash_of_base_model": plan.experiment.base.identity,
            "settings": plan.settings,
            "files": files,
            **more,
            "environment": environment(),
        }
        write_record(folder / RECORD, record)
    logger.info("%s: %d bytes", plan.folder, sum(one["bytes"] for one in files.values()))
    return plan.folder


def _compacted(adapter: LoraAdapter, rank: int | None) -> LoraAdapter:
    from compositional.adapters.low_rank import compacted

    return compacted(adapter, rank) if rank else adapter


def _write_gguf(plan: ExportPlan, adapters: list[LoraAdapter], folder: Path) -> dict[str, Any]:
    """Base model, adapters and biases; returns how they are served, and what is asked in each step, for the record."""
    dtype, base, own = plan.arguments.dtype, plan.experiment.base, plan.gguf_base
    found: dict[str, Any] = {}
    if own:
        found["base_gguf"] = {"path": str(own.path), **digest_of(own.path), "relative_difference": plan.difference_of_base}
        files = own.write_with_biases(folder / "base.gguf", plan.form, plan.biases) if plan.biases else [own.path.resolve()]
    else:
        files = write_base(folder / "base.gguf", base, dtype, plan.biases)
    identities = [identity_of(stored, plan.arguments.compact_rank) for stored in plan.adapters]
    names = ["adapter.gguf"] if len(adapters) == 1 else [f"adapter{step}.gguf" for step in range(1, len(adapters) + 1)]
    for name, adapter, identity in zip(names, adapters, identities, strict=True):
        write_lora(folder / name, plan.form, adapter, dtype, identity)
    words = ["llama-server", "-m", str(files[0] if own and not plan.biases else files[0].name)]
    words += [word for name in names for word in ("--lora", name)]
    words += ["--lora-init-without-apply"] if len(names) > 1 else []
    words += ["--alias", identities[0]] if plan.biases else []
    words += ["-c", str(min(_LONGEST_CONTEXT, base.longest_sequence or _LONGEST_CONTEXT))]
    requests = [
        {
            "instruction": text,
            "text": "the input" if step == 0 else "the answer before",
            "lora": [{"id": number, "scale": float(number == step)} for number in range(len(names))],
        }
        for step, text in enumerate(plan.experiment.requests)
    ]
    return found | {"serve": shlex.join(words), "requests": requests}


def _merged_model(plan: ExportPlan) -> PreTrainedModel:
    """The model with the adapter's updates, added in float32, and a calibration's biases in its weights."""
    import torch

    from compositional.training.corrected import fold_adapter

    model = plan.experiment.base.load(torch.float32).to("cpu")
    for stored in plan.adapters:
        fold_adapter(model, stored.read())
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
