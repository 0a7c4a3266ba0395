"""What one command will do: every check that needs no model, no data and no heavy import, all mistakes reported together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from compositional.adapters.peft_folder import check_has_no_biases
from compositional.calibration import DEFAULT_LEARNING_RATES, DEFAULT_NUM_EXAMPLES, CalibrationSpec, method_of_stored
from compositional.calibration import METHODS as CALIBRATION_METHODS
from compositional.core.errors import Mistakes, UserError
from compositional.core.machine import resolve_dtype
from compositional.core.workspace import Workspace
from compositional.data import Dataset, Locations
from compositional.experiment.arguments import (
    AUXILIARY_LORA,
    CALIBRATION,
    JOINT_EXPERT,
    LORA,
    MERGE,
    MULTI_STEP,
    ZERO_SHOT,
    Arguments,
)
from compositional.experiment.checks import adapter_configs, base_model, check_shapes_agree, contradictions, data_sets, merge_sets
from compositional.experiment.limits import check_numbers, check_trainer_options
from compositional.merging import Strategy, find_strategy
from compositional.models.base_model import BaseModel
from compositional.prediction import PROMPTS_AT_A_TIME, PredictionSettings, resolve_backend
from compositional.training import LoraSettings, OptimizationSettings


@dataclass(frozen=True)
class Plan:
    """A command that holds together. `task_set` is what is predicted, and trained on by a joint expert.

    `adapters` are those that are read, each once. `strategy` is how they are merged, where they are.
    """

    arguments: Arguments
    method: str
    workspace: Workspace
    base: BaseModel
    main_set: Dataset
    task_set: Dataset
    merge_sets: list[Dataset] = field(default_factory=list)
    adapters: list[str] = field(default_factory=list)
    strategy: Strategy | None = None
    merge_options: dict[str, Any] = field(default_factory=dict)
    trainer_options: dict[str, Any] = field(default_factory=dict)

    @property
    def training_set(self) -> Dataset:
        return self.task_set if self.method == JOINT_EXPERT else self.main_set

    @property
    def learns_merge(self) -> bool:
        """Whether the merge itself learns from examples of `merge_sets`."""
        return bool(self.strategy and self.strategy.learns)

    @property
    def learns(self) -> bool:
        """Whether a merge or a calibration learns from examples of `merge_sets`."""
        return self.learns_merge or self.calibrates

    @property
    def calibrates(self) -> bool:
        """Whether a calibration is trained here, rather than taken from another experiment."""
        return self.method == CALIBRATION and not self.arguments.stored_calibration

    @property
    def merges(self) -> list[list[str]]:
        """The adapters of each merge: several share one calibration, in the order of `merge_sets`."""
        modules, count = self.arguments.lora_merge_modules, max(1, len(self.merge_sets))
        size = len(modules) // count
        return [modules[start : start + size] for start in range(0, len(modules), size)]

    @property
    def own_merge(self) -> int:
        """Which of `merges` answers in this experiment."""
        names = [one.name for one in self.merge_sets]
        return names.index(self.task_set.name) if len(names) > 1 else 0

    @property
    def answering_adapters(self) -> list[str]:
        """The stored adapters that answer, one per step; none for the base model alone."""
        arguments = self.arguments
        if self.method == ZERO_SHOT:
            return []
        if self.method == MULTI_STEP:
            return [arguments.stored_model_name, *arguments.secondary_stored_model_name]
        if self.method == AUXILIARY_LORA:
            return arguments.secondary_stored_model_name
        return [self.written_adapter or arguments.stored_model_name]

    @property
    def splits(self) -> dict[str, str]:
        """Split to predict, by the stage's name."""
        asked = {"valid": self.arguments.do_valid, "test": self.arguments.do_predict}
        return {stage: split for stage, split in (("valid", "validation"), ("test", "test")) if asked[stage]}

    @property
    def needs_hub(self) -> bool:
        """Whether the base model or a data set may have to come from the hub."""
        sets = (self.main_set, self.task_set, *self.merge_sets)
        return not self.base.is_local or any(one.is_on_hub and not one.is_read_from_folder for one in sets)

    @property
    def written_adapter(self) -> str | None:
        """The stored adapter that this experiment makes."""
        if self.method in (MERGE, CALIBRATION):
            return self.arguments.experiment_name
        return self.arguments.stored_model_name if self.arguments.do_train else None


def make_plan(arguments: Arguments, found_while_parsing: Sequence[str] = ()) -> Plan:
    """Check a command; raises UserError with one line per mistake."""
    mistakes = Mistakes(found_while_parsing)
    arguments = _spelled_out(arguments, mistakes)
    workspace = Workspace(Path(arguments.workspace))
    method = _method(arguments)
    mistakes.when(workspace.root.exists() and not workspace.root.is_dir(), f"--workspace {workspace.root}: not a folder")
    _check_required(arguments, mistakes)
    strategy, merge_options = _strategy(arguments, mistakes)
    mistakes += contradictions(arguments, method, bool(strategy and strategy.learns))
    mistakes.attempt(check_numbers, arguments)
    trainer_options = mistakes.attempt(check_trainer_options, arguments.trainer)
    locations = Locations(workspace.root / "data", Path(arguments.raw_data_dir) if arguments.raw_data_dir else None)
    mistakes.when(bool(locations.raw and not locations.raw.is_dir()), f"--raw_data_dir {locations.raw}: there is no such folder")
    main_set, task_set = data_sets(arguments, locations, mistakes)
    learned_from = merge_sets(arguments, locations, mistakes)
    adapters = _adapters(arguments, method)
    for name in dict.fromkeys(arguments.lora_merge_modules):
        mistakes.attempt(check_has_no_biases, workspace.stored_model(name))
    configs = adapter_configs(workspace, adapters, mistakes)
    base = base_model(arguments, configs, main_set, mistakes)
    if len(configs) == len(adapters) > 1:
        mistakes.attempt(check_shapes_agree, workspace, adapters)
    calibration = mistakes.attempt(_calibration, arguments, workspace)
    if mistakes:
        raise UserError(*dict.fromkeys(mistakes))
    resolved = _resolved(replace(arguments, calibrate=calibration), base, strategy)
    return Plan(
        resolved, method, workspace, base, main_set, task_set, learned_from, adapters, strategy, merge_options, trainer_options
    )


def _spelled_out(arguments: Arguments, mistakes: Mistakes) -> Arguments:
    """The paper's names of calibrations as merge strategies stand for the calibration of a linear merge."""
    if arguments.lora_merge_strategy not in CALIBRATION_METHODS:
        return arguments
    mistakes.when(
        bool(arguments.calibrate),
        f"--calibrate contradicts --lora_merge_strategy {arguments.lora_merge_strategy}, which calibrates already: name a merge",
    )
    return replace(arguments, calibrate=arguments.lora_merge_strategy, lora_merge_strategy="linear")


def _strategy(arguments: Arguments, mistakes: Mistakes) -> tuple[Strategy | None, dict[str, Any]]:
    """The merge strategy, which is looked up (or executed) here alone, and its options."""
    name = arguments.lora_merge_strategy
    strategy = mistakes.attempt(find_strategy, name) if name else None
    if not strategy:
        return None, {}
    mistakes.when(
        bool(arguments.lora_merge_weights) and strategy.finds_weights,
        f"--lora_merge_weights contradicts --lora_merge_strategy {name}, which finds the weights",
    )
    return strategy, mistakes.attempt(strategy.parse_options, arguments.lora_merge_options) or {}


def _calibration(arguments: Arguments, workspace: Workspace) -> str | None:
    """The calibration's method: the one that is asked for, or that of the stored one."""
    if not arguments.stored_calibration:
        return arguments.calibrate
    return method_of_stored(workspace.stored_model(arguments.stored_calibration))


def _resolved(arguments: Arguments, base: BaseModel, strategy: Strategy | None) -> Arguments:
    """The arguments with the defaults filled in that depend on other arguments."""
    merged = len(arguments.lora_merge_modules) // max(1, len(arguments.merge_datasets))
    calibrates = arguments.calibrate and not arguments.stored_calibration
    num_examples = DEFAULT_NUM_EXAMPLES if calibrates else strategy.num_examples if strategy else None
    return replace(
        arguments,
        model_name_or_path=base.name,
        lora_merge_weights=arguments.lora_merge_weights or [1 / merged for _ in range(merged)],
        num_examples_merge=arguments.num_examples_merge or num_examples,
        calibration_learning_rate=arguments.calibration_learning_rate
        or (DEFAULT_LEARNING_RATES[arguments.calibrate] if calibrates else None),
        max_prompt_length=arguments.max_prompt_length or arguments.max_length,
    )


def _method(arguments: Arguments) -> str:
    if arguments.lora_merge_strategy:
        return CALIBRATION if arguments.calibrate or arguments.stored_calibration else MERGE
    if arguments.multi_step_prompts:
        return MULTI_STEP
    if arguments.zero_shot:
        return ZERO_SHOT
    if arguments.auxiliary_lora:
        return AUXILIARY_LORA
    return JOINT_EXPERT if arguments.multi_task_train_targets else LORA


def _adapters(arguments: Arguments, method: str) -> list[str]:
    """The stored adapters that the command reads, each once."""
    if method in (MERGE, CALIBRATION):
        return list(dict.fromkeys(arguments.lora_merge_modules))
    if method == ZERO_SHOT or arguments.do_train:
        return []
    if method == AUXILIARY_LORA:
        return arguments.secondary_stored_model_name
    return [name for name in (arguments.stored_model_name, *arguments.secondary_stored_model_name) if name]


def _check_required(arguments: Arguments, mistakes: Mistakes) -> None:
    name = arguments.experiment_name
    mistakes.when(not name, "--experiment_name is missing")
    named = {flag: [getattr(arguments, flag)] for flag in ("experiment_name", "stored_model_name", "stored_calibration")}
    named["secondary_stored_model_name"] = arguments.secondary_stored_model_name
    for flag, values in named.items():
        for value in filter(None, values):
            is_path = value.startswith(".") or "/" in value or "\\" in value
            mistakes.when(is_path, f"--{flag} {value}: a name is needed, not a path")
    mistakes.when(not arguments.dataset, "--dataset is missing")
    nothing = not (arguments.do_train or arguments.do_valid or arguments.do_predict or arguments.lora_merge_strategy)
    mistakes.when(nothing, "there is nothing to do: add --do_train, --do_valid or --do_predict")
    mistakes.when(
        arguments.do_train and not arguments.stored_model_name,
        "--do_train needs --stored_model_name, the name to store the adapter by",
    )


def lora_settings(plan: Plan) -> LoraSettings:
    arguments = plan.arguments
    return LoraSettings(arguments.lora_rank, arguments.lora_alpha, arguments.lora_dropout, arguments.lora_target_modules)


def calibration_spec(plan: Plan) -> CalibrationSpec:
    arguments = plan.arguments
    return CalibrationSpec(
        arguments.calibrate,
        arguments.for_each_component,
        arguments.calibration_rank,
        arguments.calibration_layer_groups,
        tuple(arguments.calibration_modules),
    )


def optimization_settings(plan: Plan) -> OptimizationSettings:
    """How the plan's adapter, merge or calibration is trained: a calibration has a learning rate and epochs of its own."""
    arguments = plan.arguments
    if plan.calibrates:
        learning_rate, epochs = arguments.calibration_learning_rate, arguments.calibration_epochs
    else:
        learning_rate, epochs = arguments.learning_rate, arguments.num_train_epochs
    return OptimizationSettings(
        learning_rate=learning_rate,
        epochs=epochs,
        effective_batch_size=arguments.batch_size * arguments.gradient_accumulation_steps,
        device_batch_size=arguments.device_batch_size,
        lr_scheduler_type=arguments.lr_scheduler_type,
        warmup_steps=arguments.warmup_steps,
        bf16=arguments.bf16,
        gradient_checkpointing=arguments.gradient_checkpointing,
        seed=arguments.seed,
        data_seed=arguments.data_seed,
        save_steps=arguments.save_steps,
        report_to=arguments.report_to,
        trainer=plan.trainer_options,
    )


def prediction_settings(plan: Plan, demonstrations_length: int = 0) -> PredictionSettings:
    """How the plan's answers are generated on this machine, with prompts as long as the model allows."""
    arguments, backend = plan.arguments, resolve_backend(plan.arguments.prediction_backend)
    return PredictionSettings(
        backend=backend,
        max_new_tokens=arguments.max_new_tokens,
        max_prompt_length=longest_prompt(plan, demonstrations_length),
        batch_size=arguments.prediction_batch_size or PROMPTS_AT_A_TIME[backend],
        dtype=resolve_dtype(arguments.prediction_dtype),
        gpu_memory_utilization=arguments.gpu_memory_utilization,
        tensor_parallel_size=arguments.tensor_parallel_size,
    )


def longest_prompt(plan: Plan, demonstrations_length: int = 0) -> int:
    """--max_prompt_length and the in-context examples, or what the model leaves for a prompt beside the new tokens, in tokens."""
    arguments, limit = plan.arguments, plan.base.longest_sequence
    wanted = arguments.max_prompt_length + demonstrations_length
    return wanted if limit is None else min(wanted, limit - arguments.max_new_tokens)
