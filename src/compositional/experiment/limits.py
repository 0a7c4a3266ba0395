"""Values that flags may take."""

from __future__ import annotations

import ast
import dataclasses
import importlib.util
import json
import math
from pathlib import Path
from typing import Any

from compositional.core.errors import UserError, nearest
from compositional.experiment.arguments import Arguments

_AT_LEAST_ONE = (
    *("num_examples_merge", "calibration_rank", "lora_rank", "lora_alpha", "batch_size", "gradient_accumulation_steps"),
    *("max_train_examples", "max_valid_examples", "max_test_examples", "max_length", "max_prompt_length", "max_new_tokens"),
    *("device_batch_size", "prediction_batch_size", "tensor_parallel_size", "save_steps", "bootstrap_resamples"),
)
_ABOVE_ZERO = ("learning_rate", "calibration_learning_rate", "calibration_epochs", "num_train_epochs")
_OWN_FLAGS = {
    "learning_rate": "--learning_rate",
    "num_train_epochs": "--num_train_epochs",
    "per_device_train_batch_size": "--batch_size or --device_batch_size",
    "gradient_accumulation_steps": "--gradient_accumulation_steps",
    "lr_scheduler_type": "--lr_scheduler_type",
    "warmup_steps": "--warmup_steps",
    "bf16": "--bf16",
    "gradient_checkpointing": "--gradient_checkpointing",
    "seed": "--seed",
    "data_seed": "--data_seed",
    "save_steps": "--save_steps",
    "report_to": "--report_to",
    "output_dir": "--workspace",
}
_NOT_POSSIBLE = {
    "remove_unused_columns": "our batches have no columns",
    "label_smoothing_factor": "the loss is ours",
    "train_sampling_strategy": "updates are put together by length already",
    "length_column_name": "updates are put together by length already",
    "resume_from_checkpoint": "a run resumes by itself",
    "eval_strategy": "--do_valid predicts the validation split",
    "do_train": "--do_train says so",
    "do_eval": "--do_valid says so",
    "do_predict": "--do_predict says so",
    "use_cpu": "CUDA_VISIBLE_DEVICES= does it",
}


def check_numbers(arguments: Arguments) -> None:
    """Raise UserError for numbers out of their range, all of them at once."""
    values = {field.name: getattr(arguments, field.name) for field in dataclasses.fields(arguments)}
    mistakes = [
        f"--{name} {values[name]}: must be at least 1" for name in _AT_LEAST_ONE if values[name] is not None and values[name] < 1
    ]
    mistakes += [
        f"--{name} {values[name]}: must be above 0" for name in _ABOVE_ZERO if values[name] is not None and not values[name] > 0
    ]
    if not 0 <= arguments.lora_dropout < 1:
        mistakes.append(f"--lora_dropout {arguments.lora_dropout}: must be at least 0 and below 1")
    mistakes += [f"--{name} {values[name]}: must be finite" for name in _ABOVE_ZERO if values[name] == math.inf]
    if not all(map(math.isfinite, arguments.lora_merge_weights)):
        mistakes.append(f"--lora_merge_weights {' '.join(map(str, arguments.lora_merge_weights))}: must be finite")
    seeds = ("seed", "data_seed")
    mistakes += [f"--{name} {values[name]}: must be at least 0 and below 2^32" for name in seeds if not 0 <= values[name] < 2**32]
    at_least_zero = ("warmup_steps", "in_context_examples", "calibration_layer_groups")
    mistakes += [f"--{name} {values[name]}: must be at least 0" for name in at_least_zero if values[name] < 0]
    if not 0 < arguments.gpu_memory_utilization <= 1:
        mistakes.append(f"--gpu_memory_utilization {arguments.gpu_memory_utilization}: must be above 0 and at most 1")
    trackers = ("tensorboard", "wandb", "none")
    if "none" in arguments.report_to and len(arguments.report_to) > 1:
        mistakes.append(f"--report_to {' '.join(arguments.report_to)}: none contradicts the others")
    if "wandb" in arguments.report_to and not importlib.util.find_spec("wandb"):
        mistakes.append("--report_to wandb: wandb is not installed; pip install wandb")
    mistakes += [f"--report_to {name}: {nearest(name, trackers)}" for name in arguments.report_to if name not in trackers]
    if mistakes:
        raise UserError(*mistakes)


def check_trainer_options(pairs: list[str]) -> dict[str, Any]:
    """KEY=VALUE pairs as settings of transformers' TrainingArguments; raises UserError for unknown keys and for ours.

    The known keys are read from transformers' source, which takes no import of it.
    """
    options, mistakes = {}, []
    known = _training_argument_types() if pairs else {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            mistakes.append(f"--trainer {pair}: expected KEY=VALUE")
        elif key in _OWN_FLAGS:
            mistakes.append(f"--trainer {key}: use {_OWN_FLAGS[key]}")
        elif key in _NOT_POSSIBLE:
            mistakes.append(f"--trainer {key}: not possible here, {_NOT_POSSIBLE[key]}")
        elif key not in known:
            mistakes.append(f"--trainer {key}: TrainingArguments has no such setting; {nearest(key, known)}")
        else:
            options[key] = _value(value)
            if not _fits(options[key], known[key]):
                mistakes.append(f"--trainer {pair}: the value must be {known[key]}")
    if mistakes:
        raise UserError(*mistakes)
    return options


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return {"True": True, "False": False, "None": None}.get(text, text)


def _fits(value: Any, annotation: str) -> bool:
    """Whether a value is of an annotated type; annotations of more than numbers and truth values are left to the Trainer."""
    kinds = {"int": int, "float": (int, float), "bool": bool, "None": type(None)}
    members = [member.strip() for member in annotation.split("|")]
    if not set(members) <= kinds.keys():
        return True
    if isinstance(value, bool):
        return "bool" in members
    return any(isinstance(value, kinds[member]) for member in members)


def _training_argument_types() -> dict[str, str]:
    """Names and annotations of the settings of TrainingArguments."""
    folder = Path(importlib.util.find_spec("transformers").origin).parent
    tree = ast.parse((folder / "training_args.py").read_text(encoding="utf-8"))
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "TrainingArguments"]
    return {node.target.id: ast.unparse(node.annotation) for node in classes[0].body if isinstance(node, ast.AnnAssign)}
