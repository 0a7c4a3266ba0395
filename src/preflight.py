"""The last checks, which need the base model's configuration and tokenizer, before anything is written."""

from __future__ import annotations

import tempfile
from pathlib import Path

from src.adapters.lora import module_type
from src.adapters.peft_folder import read_shapes
from src.encoding import ChatEncoder
from src.errors import UserError
from src.loading import ExperimentData
from src.models import BaseModel
from src.plan import Plan
from src.prompts import instruction
from src.settings import lora_settings, optimization_settings, prediction_settings


def check_before_start(plan: Plan, data: ExperimentData) -> None:
    """Raise UserError, with all mistakes at once, for what would stop the experiment on its way."""
    shapes = plan.base.linear_shapes()
    checks = [
        lambda: _check_prompts_fit(plan, data),
        lambda: _check_adapters_fit(plan, shapes),
        lambda: _check_training(plan, data, shapes),
    ]
    mistakes: list[str] = []
    for check in checks:
        try:
            check()
        except UserError as error:
            mistakes += error.mistakes
    if mistakes:
        raise UserError(*mistakes)


def _check_prompts_fit(plan: Plan, data: ExperimentData) -> None:
    """An instruction in its template must leave room for text."""
    encoder = ChatEncoder(plan.base.tokenizer())
    style = plan.arguments.prompt_style
    for examples in data.stages.values():
        encoder.prompt(instruction(examples.dataset.tasks, style), "", prediction_settings(plan).max_prompt_length)
    if data.training:
        encoder.prompt(instruction(data.training.dataset.tasks, style), "", plan.arguments.max_length // 2)


def _check_adapters_fit(plan: Plan, expected: dict[str, tuple[int, int]]) -> None:
    mistakes = []
    for name in plan.adapters:
        for path, shape in read_shapes(plan.workspace.stored_model(name)).items():
            if path not in expected:
                mistakes.append(f"adapter {name} does not fit {plan.base.name}: the model has no linear module {path}")
                break
            if expected[path] != shape:
                theirs, ours = " × ".join(map(str, shape)), " × ".join(map(str, expected[path]))
                fault = f"{path} is {theirs} in the adapter, {ours} in the model"
                mistakes.append(f"adapter {name} does not fit {plan.base.name}: {fault}")
                break
    if mistakes:
        raise UserError(*mistakes)


def _check_training(plan: Plan, data: ExperimentData, shapes: dict[str, tuple[int, int]]) -> None:
    """The Trainer must take its settings, and the model must have the modules that get a LoRA."""
    if not data.training:
        return
    from src.training import TrainingFolders
    from src.training.trainer import training_arguments

    if plan.arguments.do_train:
        _check_target_modules(lora_settings(plan).target_modules, plan.base, shapes)
    with tempfile.TemporaryDirectory() as folder:
        try:
            training_arguments(optimization_settings(plan), TrainingFolders(Path(folder), Path(folder)))
        except (ValueError, TypeError, ImportError) as error:
            raise UserError(f"transformers' Trainer does not take these settings: {str(error).splitlines()[0]}") from error


def _check_target_modules(names: list[str], base: BaseModel, shapes: dict[str, tuple[int, int]]) -> None:
    known = {module_type(path) for path in shapes}
    if unknown := [name for name in names if name not in known]:
        raise UserError(
            f"--lora_target_modules {' '.join(unknown)}: the linear modules of {base.name} are {', '.join(sorted(known))}"
        )
