"""What one command will do: every check that needs no model, no data and no heavy import, all mistakes reported together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from src.adapters.peft_folder import check_has_no_biases
from src.arguments import Arguments
from src.calibration import DEFAULT_LEARNING_RATES, DEFAULT_NUM_EXAMPLES
from src.calibration import METHODS as CALIBRATION_METHODS
from src.calibration.stored import method_of_stored
from src.checks.base_model import adapter_configs, base_model, check_shapes_agree
from src.checks.contradictions import contradictions
from src.checks.data_sets import data_sets, merge_sets
from src.checks.limits import check_numbers, check_trainer_options
from src.data import Dataset, Locations
from src.errors import Mistakes, UserError
from src.merging import check_strategy, default_num_examples, finds_weights, learns_from_examples, parse_options
from src.methods import AUXILIARY_LORA, CALIBRATION, JOINT_EXPERT, LORA, MERGE, MULTI_STEP, ZERO_SHOT
from src.models import BaseModel
from src.workspace import Workspace


@dataclass(frozen=True)
class Plan:
    """A command that holds together. `task_set` is what is predicted, and trained on by a joint expert.

    `adapters` are those that are read, each once. `learns_merge` is whether the merge itself looks at examples of `merge_sets`.
    """

    arguments: Arguments
    method: str
    workspace: Workspace
    base: BaseModel
    main_set: Dataset
    task_set: Dataset
    merge_sets: list[Dataset] = field(default_factory=list)
    adapters: list[str] = field(default_factory=list)
    merge_options: dict[str, Any] = field(default_factory=dict)
    learns_merge: bool = False
    trainer_options: dict[str, Any] = field(default_factory=dict)

    @property
    def training_set(self) -> Dataset:
        return self.task_set if self.method == JOINT_EXPERT else self.main_set

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
    merge_options, learns_merge = _merge_options(arguments, mistakes)
    mistakes += contradictions(arguments, method, learns_merge)
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
    resolved = _resolved(replace(arguments, calibrate=calibration), base)
    return Plan(
        resolved, method, workspace, base, main_set, task_set, learned_from, adapters, merge_options, learns_merge, trainer_options
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


def _merge_options(arguments: Arguments, mistakes: Mistakes) -> tuple[dict[str, Any], bool]:
    """The options of the merge strategy, checked against its signature, and whether it learns from examples."""
    strategy = arguments.lora_merge_strategy
    if not strategy:
        return {}, False
    found = len(mistakes)
    mistakes.attempt(check_strategy, strategy)
    if len(mistakes) > found:
        return {}, False
    mistakes.when(
        bool(arguments.lora_merge_weights) and finds_weights(strategy),
        f"--lora_merge_weights contradicts --lora_merge_strategy {strategy}, which finds the weights",
    )
    options = mistakes.attempt(parse_options, strategy, arguments.lora_merge_options)
    return options or {}, learns_from_examples(strategy)


def _calibration(arguments: Arguments, workspace: Workspace) -> str | None:
    """The calibration's method: the one that is asked for, or that of the stored one."""
    if not arguments.stored_calibration:
        return arguments.calibrate
    return method_of_stored(workspace.stored_model(arguments.stored_calibration))


def _resolved(arguments: Arguments, base: BaseModel) -> Arguments:
    """The arguments with the defaults filled in that depend on other arguments."""
    merged = len(arguments.lora_merge_modules) // max(1, len(arguments.merge_datasets))
    calibrates = arguments.calibrate and not arguments.stored_calibration
    strategy = arguments.lora_merge_strategy
    num_examples = DEFAULT_NUM_EXAMPLES if calibrates else default_num_examples(strategy) if strategy else None
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
