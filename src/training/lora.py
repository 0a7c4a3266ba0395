"""Training a LoRA adapter with PEFT."""

from __future__ import annotations

from peft import LoraConfig, get_peft_model
from transformers import PreTrainedModel, set_seed

from src.adapters.lora import LoraAdapter, LoraFactors
from src.encoding import TrainingSequence
from src.training import LoraSettings, OptimizationSettings, TrainingFolders, TrainingReport
from src.training.trainer import train_parameters


def train_lora(
    model: PreTrainedModel,
    base_model: str,
    sequences: list[TrainingSequence],
    pad_token_id: int,
    lora: LoraSettings,
    settings: OptimizationSettings,
    folders: TrainingFolders,
    description: str,
) -> tuple[LoraAdapter, TrainingReport]:
    """Train an adapter on a frozen base model, which is left with the adapter in it."""
    set_seed(settings.seed)
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora.target_modules,
        task_type="CAUSAL_LM",
    )
    peft_model = get_peft_model(model, config)
    if settings.gradient_checkpointing:
        peft_model.enable_input_require_grads()
    report = train_parameters(peft_model, sequences, pad_token_id, settings, folders, description)
    return adapter_in(peft_model, base_model), report


def adapter_in(peft_model: PreTrainedModel, base_model: str) -> LoraAdapter:
    """The tensors of the active adapter of a PEFT model, on the CPU."""
    factors = {}
    for path, module in peft_model.get_base_model().named_modules():
        if hasattr(module, "lora_A") and "default" in module.lora_A:
            A, B = module.lora_A["default"].weight, module.lora_B["default"].weight
            factors[path] = LoraFactors(A.detach().cpu(), B.detach().cpu(), module.scaling["default"])
    return LoraAdapter("", base_model, factors)
