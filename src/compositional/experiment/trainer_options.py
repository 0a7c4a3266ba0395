"""The flag `--trainer`: any setting of transformers' TrainingArguments that has no flag of its own."""

from __future__ import annotations

import ast
import dataclasses
import importlib.util
import json
from pathlib import Path
from typing import Any

from compositional.core.errors import UserError, nearest
from compositional.experiment.arguments import Arguments

_TRACKERS = ("tensorboard", "wandb", "none")
_OF_UPLOADS = ("push_to_hub", "hub_", "trackio_")
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


def wrong_trackers(names: list[str]) -> list[str]:
    """A message for each tracker in --report_to that is unknown or not installed."""
    mistakes = []
    if "none" in names and len(names) > 1:
        mistakes.append(f"--report_to {' '.join(names)}: none contradicts the others")
    if "wandb" in names and not importlib.util.find_spec("wandb"):
        mistakes.append("--report_to wandb: wandb is not installed; pip install wandb")
    return mistakes + [f"--report_to {name}: {nearest(name, _TRACKERS)}" for name in names if name not in _TRACKERS]


def check_trainer_options(pairs: list[str]) -> dict[str, Any]:
    """KEY=VALUE pairs as settings of TrainingArguments; raises UserError for unknown keys, and for keys that have a flag here.

    The known keys are read from transformers' source, without importing it.
    """
    options, mistakes = {}, []
    own_flags = _own_flags()
    known = _training_argument_types() if pairs else {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            mistakes.append(f"--trainer {pair}: expected KEY=VALUE")
        elif key in own_flags:
            mistakes.append(f"--trainer {key}: use {own_flags[key]}")
        elif key.startswith(_OF_UPLOADS):
            mistakes.append(f"--trainer {key}: not possible here, nothing is uploaded; `hf upload` does it for a finished adapter")
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


def _own_flags() -> dict[str, str]:
    """Our flags, by the names of the same settings in TrainingArguments."""
    named = {field.metadata["trainer_name"]: f"--{field.name}" for field in dataclasses.fields(Arguments)}
    own = {name: flag for name, flag in named.items() if name}
    return own | {"per_device_train_batch_size": "--batch_size or --device_batch_size"}


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return {"True": True, "False": False, "None": None}.get(text, text)


def _fits(value: Any, annotation: str) -> bool:
    """Whether a value has the annotated type. Only numbers and booleans are checked; the Trainer checks other types."""
    kinds = {"int": int, "float": (int, float), "bool": bool, "None": type(None)}
    members = [member.strip() for member in annotation.split("|")]
    if not set(members) <= kinds.keys():
        return True
    if isinstance(value, bool):
        return "bool" in members
    return any(isinstance(value, kinds[member]) for member in members)


def _training_argument_types() -> dict[str, str]:
    """The names of TrainingArguments' settings, with their type annotations."""
    folder = Path(importlib.util.find_spec("transformers").origin).parent
    tree = ast.parse((folder / "training_args.py").read_text(encoding="utf-8"))
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "TrainingArguments"]
    return {node.target.id: ast.unparse(node.annotation) for node in classes[0].body if isinstance(node, ast.AnnAssign)}
