"""The plan of a command, after all checks that need no model, data or heavy import. All mistakes are reported together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from compositional.adapters.lora import LoraAdapter
from compositional.adapters.peft_folder import StoredAdapter, check_has_no_biases
from compositional.calibration import DEFAULT_LEARNING_RATES, DEFAULT_NUM_EXAMPLES, CalibrationSpec, method_of_stored
from compositional.calibration import METHODS as CALIBRATION_METHODS
from compositional.core.errors import Mistakes, UserError
from compositional.core.flags import default_of, wrong_values
from compositional.core.machine import resolve_dtype
from compositional.core.recorded import NO_FLAG
from compositional.core.workspace import NO_EXPERIMENTS, Workspace
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
from compositional.experiment.checks import (
    base_model,
    check_named_once,
    check_shapes_agree,
    contradictions,
    data_sets,
    merge_sets,
    stored_adapters,
)
from compositional.experiment.trainer_options import check_trainer_options, wrong_trackers
from compositional.merging import Strategy, find_strategy
from compositional.models.chat import instruction
from compositional.models.model import Model
from compositional.prediction import PROMPTS_AT_A_TIME, PredictionSettings, resolve_backend
from compositional.training import LoraSettings, OptimizationSettings
from compositional.training.precision import Precision, resolve_precision


@dataclass(frozen=True)
class Plan:
    """A consistent command with resolved settings, and the model and adapters that all stages share.

    `task_set` is predicted, and a joint expert is trained on it. `merge_sets` are learned from: a compositional set for each merge
    that a calibration shares, or, if the strategy learns single tasks, a set for each adapter. `adapters` are the stored adapters
    that it reads, by name.
    `strategy` merges them, if requested. `calibration_source` has the stored calibration to apply, if requested. `files_of_flags`
    are those in which parts of the command line stood.
    """

    arguments: Arguments
    method: str
    workspace: Workspace
    base: Model
    main_set: Dataset
    task_set: Dataset
    merge_sets: list[Dataset] = field(default_factory=list)
    adapters: dict[str, StoredAdapter] = field(default_factory=dict)
    strategy: Strategy | None = None
    merge_options: dict[str, Any] = field(default_factory=dict)
    calibration_source: StoredAdapter | None = None
    trainer_options: dict[str, Any] = field(default_factory=dict)
    files_of_flags: Sequence[Path] = ()

    @property
    def training_set(self) -> Dataset:
        """The data set that a LoRA is trained on."""
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
        """Whether this experiment trains a calibration, rather than loading that of another experiment."""
        return self.method == CALIBRATION and not self.calibration_source

    @property
    def makes_targets(self) -> bool:
        """Whether a calibration learns the adapters' own multi-step answers, not the targets of a data set."""
        return self.calibrates and self.arguments.calibration_targets == MULTI_STEP

    @property
    def learns_single_tasks(self) -> bool:
        """Whether the merge learns from the data of each adapter's own task."""
        return bool(self.strategy and self.strategy.learns_single_tasks)

    @property
    def merges(self) -> list[list[StoredAdapter]]:
        """The adapters of each merge. Several merges share one calibration, in the order of `merge_sets`."""
        modules = self.arguments.lora_merge_modules
        count = 1 if self.learns_single_tasks else max(1, len(self.merge_sets))
        size = len(modules) // count
        groups = [modules[start : start + size] for start in range(0, len(modules), size)]
        return [[self.adapters[name] for name in group] for group in groups]

    def read_adapters(self, merge: int) -> list[LoraAdapter]:
        """The tensors of a merge's adapters. All are of the plan's base model, whatever name for it they record."""
        return [replace(adapter.read(), base_model=self.base.name) for adapter in self.merges[merge]]

    @property
    def own_merge(self) -> int:
        """The index in `merges` of the merge that this experiment predicts with."""
        names = [one.name for one in self.merge_sets]
        return names.index(self.task_set.name) if len(self.merges) > 1 else 0

    @property
    def written_adapter(self) -> str | None:
        """The name of the stored adapter that this experiment makes."""
        if self.method in (MERGE, CALIBRATION):
            return self.arguments.experiment_name
        return self.arguments.stored_model_name if self.arguments.do_train else None

    @property
    def answering_adapters(self) -> list[str]:
        """The names of the stored adapters to predict with, one per step; empty for the base model alone."""
        arguments = self.arguments
        if self.method == ZERO_SHOT:
            return []
        if self.method == MULTI_STEP:
            return [arguments.stored_model_name, *arguments.secondary_stored_model_name]
        if self.method == AUXILIARY_LORA:
            return arguments.secondary_stored_model_name
        return [self.written_adapter or arguments.stored_model_name]

    @property
    def requests(self) -> list[str]:
        """The instruction of each inference pass: one for the composed task, or for multi-step usage one per task."""
        tasks = self.task_set.tasks
        if self.method == MULTI_STEP:
            return [instruction((task,)) for task in tasks]
        return [instruction(tasks, self.arguments.prompt_style)]

    @property
    def splits(self) -> dict[str, str]:
        """The splits to predict, by stage."""
        requested = {"valid": self.arguments.do_valid, "test": self.arguments.do_predict}
        return {stage: split for stage, split in (("valid", "validation"), ("test", "test")) if requested[stage]}

    @property
    def needs_hub(self) -> bool:
        """Whether the base model or a data set may have to be downloaded from the hub."""
        sets = (self.main_set, self.task_set, *self.merge_sets)
        return not self.base.is_local or any(one.is_on_hub and not one.is_read_from_folder for one in sets)

    @property
    def lora(self) -> LoraSettings:
        """The shape of the LoRA to train."""
        arguments = self.arguments
        return LoraSettings(arguments.lora_rank, arguments.lora_alpha, arguments.lora_dropout, arguments.lora_target_modules)

    @property
    def calibration(self) -> CalibrationSpec:
        """The calibration to learn."""
        arguments = self.arguments
        return CalibrationSpec(
            arguments.calibrate,
            arguments.for_each_component,
            arguments.calibration_rank,
            arguments.calibration_layer_groups,
            tuple(arguments.calibration_modules),
        )

    @property
    def precision(self) -> Precision:
        """The precision of training on this device."""
        parameters = sum(d_out * d_in for d_out, d_in in self.base.linear_shapes.values())
        return resolve_precision(self.arguments.train_dtype, self.arguments.bf16, parameters)

    @property
    def optimization(self) -> OptimizationSettings:
        """How the adapter, merge or calibration is trained. A calibration has its own learning rate and epochs."""
        arguments = self.arguments
        if self.calibrates:
            learning_rate, epochs = arguments.calibration_learning_rate, arguments.calibration_epochs
        else:
            learning_rate, epochs = arguments.learning_rate, arguments.num_train_epochs
        return OptimizationSettings(
            learning_rate=learning_rate,
            epochs=epochs,
            effective_batch_size=arguments.batch_size * arguments.gradient_accumulation_steps,
            device_batch_size=arguments.device_batch_size,
            device_batch_tokens=arguments.device_batch_tokens,
            lr_scheduler_type=arguments.lr_scheduler_type,
            warmup_steps=arguments.warmup_steps,
            precision=self.precision,
            torch_compile=arguments.torch_compile,
            gradient_checkpointing=arguments.gradient_checkpointing,
            seed=arguments.seed,
            data_seed=arguments.data_seed,
            save_steps=arguments.save_steps,
            report_to=arguments.report_to,
            trainer=self.trainer_options,
        )

    def prediction(self, demonstrations_length: int = 0) -> PredictionSettings:
        """How answers are generated on this machine; `demonstrations_length` is the number of tokens of the in-context examples."""
        arguments, backend = self.arguments, resolve_backend(self.arguments.prediction_backend)
        return PredictionSettings(
            backend=backend,
            max_new_tokens=arguments.max_new_tokens,
            max_prompt_length=self.longest_prompt(demonstrations_length),
            batch_size=arguments.prediction_batch_size or PROMPTS_AT_A_TIME[backend],
            dtype=resolve_dtype(arguments.prediction_dtype),
            gpu_memory_utilization=arguments.gpu_memory_utilization,
            tensor_parallel_size=arguments.tensor_parallel_size,
            llama_cpp_url=arguments.llama_cpp_url,
        )

    def longest_prompt(self, demonstrations_length: int = 0) -> int:
        """The maximum prompt length in tokens: --max_prompt_length plus in-context examples, within what the model supports."""
        arguments, limit = self.arguments, self.base.longest_sequence
        requested = arguments.max_prompt_length + demonstrations_length
        return requested if limit is None else min(requested, limit - arguments.max_new_tokens)

    def value_if_left_out(self, key: str) -> Any:
        """The resolved value of a flag if it were omitted from this command; NO_FLAG for a key that is not a flag."""
        declared = {one.name: one for one in fields(Arguments)}
        if key not in declared:
            return NO_FLAG
        left_out = replace(self.arguments, **{key: default_of(declared[key])})
        return getattr(_resolved(left_out, self.base, self.strategy), key)


def make_plan(arguments: Arguments, parsing_mistakes: Sequence[str] = (), files_of_flags: Sequence[Path] = ()) -> Plan:
    """Check a command; raises UserError with one line per mistake. `parsing_mistakes` are reported as well."""
    mistakes = Mistakes(parsing_mistakes)
    arguments = _spelled_out(arguments, mistakes)
    workspace = Workspace(Path(arguments.workspace))
    method = _method(arguments)
    mistakes.when(workspace.root.exists() and not workspace.root.is_dir(), f"--workspace {workspace.root}: not a folder")
    _check_required(arguments, mistakes)
    strategy, merge_options = _strategy(arguments, mistakes)
    mistakes += contradictions(arguments, method, strategy)
    mistakes += wrong_values(arguments) + wrong_trackers(arguments.report_to)
    trainer_options = mistakes.attempt(check_trainer_options, arguments.trainer)
    locations = Locations(workspace.root / "data", Path(arguments.raw_data_dir) if arguments.raw_data_dir else None)
    mistakes.when(bool(locations.raw and not locations.raw.is_dir()), f"--raw_data_dir {locations.raw}: there is no such folder")
    main_set, task_set = data_sets(arguments, locations, mistakes)
    sets_to_learn_from = merge_sets(arguments, strategy, locations, mistakes)
    for name in dict.fromkeys(arguments.lora_merge_modules):
        mistakes.attempt(check_has_no_biases, workspace.stored_model(name))
    adapters = stored_adapters(workspace, _adapters(arguments, method), mistakes)
    base = base_model(arguments, workspace, adapters, main_set, mistakes)
    if len(adapters) > 1:
        mistakes.attempt(check_shapes_agree, adapters)
    if arguments.lora_merge_strategy:
        mistakes.attempt(check_named_once, adapters)
    source = arguments.stored_calibration
    calibration_source = StoredAdapter(workspace.stored_model(source)) if source else None
    calibrate = mistakes.attempt(method_of_stored, calibration_source.folder) if source else arguments.calibrate
    if mistakes:
        raise UserError(*dict.fromkeys(mistakes))
    return Plan(
        _resolved(replace(arguments, calibrate=calibrate), base, strategy),
        method,
        workspace,
        base,
        main_set,
        task_set,
        sets_to_learn_from,
        adapters,
        strategy,
        merge_options,
        calibration_source,
        trainer_options,
        files_of_flags,
    )


def _spelled_out(arguments: Arguments, mistakes: Mistakes) -> Arguments:
    """Expand the paper's notation: a calibration named as merge strategy means the calibration of a linear merge."""
    if arguments.lora_merge_strategy not in CALIBRATION_METHODS:
        return arguments
    mistakes.when(
        bool(arguments.calibrate),
        f"--calibrate contradicts --lora_merge_strategy {arguments.lora_merge_strategy}, which calibrates already: name a merge",
    )
    return replace(arguments, calibrate=arguments.lora_merge_strategy, lora_merge_strategy="linear")


def _strategy(arguments: Arguments, mistakes: Mistakes) -> tuple[Strategy | None, dict[str, Any]]:
    """The merge strategy and its options. This is the only place that looks up or executes a strategy's file."""
    name = arguments.lora_merge_strategy
    strategy = mistakes.attempt(find_strategy, name) if name else None
    if not strategy:
        return None, {}
    mistakes.when(
        bool(arguments.lora_merge_weights) and strategy.finds_weights,
        f"--lora_merge_weights contradicts --lora_merge_strategy {name}, which finds the weights",
    )
    return strategy, mistakes.attempt(strategy.parse_options, arguments.lora_merge_options) or {}


def _resolved(arguments: Arguments, base: Model, strategy: Strategy | None) -> Arguments:
    """The arguments, with defaults that depend on other arguments filled in."""
    single_tasks = bool(strategy and strategy.learns_single_tasks)
    merged = len(arguments.lora_merge_modules) // (1 if single_tasks else max(1, len(arguments.merge_datasets)))
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
    mistakes.when(not arguments.experiment_name, "--experiment_name is missing")
    reserved = arguments.experiment_name in NO_EXPERIMENTS
    mistakes.when(reserved, f"--experiment_name {arguments.experiment_name}: the workspace needs this name itself; choose another")
    mistakes.when(not arguments.dataset, "--dataset is missing")
    nothing = not (arguments.do_train or arguments.do_valid or arguments.do_predict or arguments.lora_merge_strategy)
    mistakes.when(nothing, "there is nothing to do: add --do_train, --do_valid or --do_predict")
    mistakes.when(
        arguments.do_train and not arguments.stored_model_name,
        "--do_train needs --stored_model_name, the name to store the adapter by",
    )
