"""What one command will do: every check that needs no model, no data and no heavy import, all mistakes reported together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from src.adapters.peft_folder import AdapterConfig, check_has_no_biases, read_config, read_shapes
from src.arguments import Arguments
from src.calibration import DEFAULT_LEARNING_RATES
from src.calibration import METHODS as CALIBRATION_METHODS
from src.checks.contradictions import contradictions
from src.checks.limits import check_numbers, check_trainer_options
from src.data import Dataset, Locations, find_dataset
from src.errors import UserError, nearest
from src.merging import check_strategy, parse_options
from src.methods import CALIBRATION, JOINT_EXPERT, LORA, MERGE, MULTI_STEP, ZERO_SHOT
from src.models import POCKET, BaseModel
from src.tasks import Task
from src.workspace import Workspace


@dataclass(frozen=True)
class Plan:
    """A command that holds together. `task_set` is what is predicted, and trained on by a joint expert."""

    arguments: Arguments
    method: str
    workspace: Workspace
    base: BaseModel
    main_set: Dataset
    task_set: Dataset
    merge_sets: list[Dataset] = field(default_factory=list)
    adapters: list[str] = field(default_factory=list)
    merge_options: dict[str, Any] = field(default_factory=dict)
    trainer_options: dict[str, Any] = field(default_factory=dict)

    @property
    def training_set(self) -> Dataset:
        return self.task_set if self.method == JOINT_EXPERT else self.main_set

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


class _Mistakes(list):
    """Collects UserErrors, so that all of them can be shown at once."""

    def attempt(self, function: Any, *arguments: Any) -> Any:
        try:
            return function(*arguments)
        except UserError as error:
            self.extend(error.mistakes)
            return None

    def when(self, wrong: bool, message: str) -> None:
        if wrong:
            self.append(message)


def make_plan(arguments: Arguments, found_while_parsing: Sequence[str] = ()) -> Plan:
    """Check a command; raises UserError with one line per mistake."""
    mistakes = _Mistakes(found_while_parsing)
    arguments = _spelled_out(arguments, mistakes)
    workspace = Workspace(Path(arguments.workspace))
    method = _method(arguments)
    mistakes.when(workspace.root.exists() and not workspace.root.is_dir(), f"--workspace {workspace.root}: not a folder")
    _check_required(arguments, mistakes)
    mistakes += contradictions(arguments, method)
    merge_options = _merge_options(arguments, mistakes)
    mistakes.attempt(check_numbers, arguments)
    trainer_options = mistakes.attempt(check_trainer_options, arguments.trainer)
    locations = Locations(workspace.root / "data", Path(arguments.raw_data_dir) if arguments.raw_data_dir else None)
    mistakes.when(bool(locations.raw and not locations.raw.is_dir()), f"--raw_data_dir {locations.raw}: there is no such folder")
    main_set, task_set = _data_sets(arguments, locations, mistakes)
    merge_sets = [found for name in arguments.merge_datasets if (found := mistakes.attempt(find_dataset, name, locations))]
    for found in merge_sets:
        mistakes.when(not found.is_compositional, f"--merge_datasets {found.name}: a compositional data set is needed")
    adapters = _adapters(arguments, method)
    for name in arguments.lora_merge_modules:
        mistakes.attempt(check_has_no_biases, workspace.stored_model(name))
    configs = _adapter_configs(workspace, adapters, mistakes)
    base = _base_model(arguments, configs, main_set, mistakes)
    if len(configs) == len(adapters) > 1:
        mistakes.attempt(_check_shapes_agree, workspace, adapters)
    if mistakes:
        raise UserError(*dict.fromkeys(mistakes))
    resolved = _resolved(arguments, base)
    return Plan(resolved, method, workspace, base, main_set, task_set, merge_sets, adapters, merge_options, trainer_options)


def _spelled_out(arguments: Arguments, mistakes: _Mistakes) -> Arguments:
    """The paper's names of calibrations as merge strategies stand for the calibration of a linear merge."""
    if arguments.lora_merge_strategy not in CALIBRATION_METHODS:
        return arguments
    mistakes.when(
        bool(arguments.calibrate),
        f"--calibrate contradicts --lora_merge_strategy {arguments.lora_merge_strategy}, which calibrates already: name a merge",
    )
    return replace(arguments, calibrate=arguments.lora_merge_strategy, lora_merge_strategy="linear")


def _merge_options(arguments: Arguments, mistakes: _Mistakes) -> dict[str, Any]:
    """The options of the merge strategy, checked against its signature."""
    strategy = arguments.lora_merge_strategy
    if not strategy:
        return {}
    found = len(mistakes)
    mistakes.attempt(check_strategy, strategy)
    return {} if len(mistakes) > found else mistakes.attempt(parse_options, strategy, arguments.lora_merge_options) or {}


def _resolved(arguments: Arguments, base: BaseModel) -> Arguments:
    """The arguments with the defaults filled in that depend on other arguments."""
    modules = arguments.lora_merge_modules
    return replace(
        arguments,
        model_name_or_path=base.name,
        lora_merge_weights=arguments.lora_merge_weights or [1 / len(modules) for _ in modules],
        calibration_learning_rate=arguments.calibration_learning_rate or DEFAULT_LEARNING_RATES.get(arguments.calibrate),
        max_prompt_length=arguments.max_prompt_length or arguments.max_length,
    )


def _method(arguments: Arguments) -> str:
    if arguments.lora_merge_strategy:
        return CALIBRATION if arguments.calibrate else MERGE
    if arguments.multi_step_prompts:
        return MULTI_STEP
    if arguments.zero_shot:
        return ZERO_SHOT
    return JOINT_EXPERT if arguments.multi_task_train_targets else LORA


def _adapters(arguments: Arguments, method: str) -> list[str]:
    """The stored adapters that the command reads, each once."""
    if method in (MERGE, CALIBRATION):
        return list(arguments.lora_merge_modules)
    if method == ZERO_SHOT or arguments.do_train:
        return []
    return [name for name in (arguments.stored_model_name, arguments.secondary_stored_model_name) if name]


def _check_required(arguments: Arguments, mistakes: _Mistakes) -> None:
    name = arguments.experiment_name
    mistakes.when(not name, "--experiment_name is missing")
    for flag in ("experiment_name", "stored_model_name", "secondary_stored_model_name"):
        value = getattr(arguments, flag)
        mistakes.when(
            bool(value) and (value.startswith(".") or "/" in value or "\\" in value),
            f"--{flag} {value}: a name is needed, not a path",
        )
    mistakes.when(not arguments.dataset, "--dataset is missing")
    nothing = not (arguments.do_train or arguments.do_valid or arguments.do_predict or arguments.lora_merge_strategy)
    mistakes.when(nothing, "there is nothing to do: add --do_train, --do_valid or --do_predict")
    mistakes.when(
        arguments.do_train and not arguments.stored_model_name,
        "--do_train needs --stored_model_name, the name to store the adapter by",
    )


def _data_sets(arguments: Arguments, locations: Locations, mistakes: _Mistakes) -> tuple[Dataset | None, Dataset | None]:
    """The main (or only) task's set, and the set of the asked task or tasks."""
    main_set = mistakes.attempt(find_dataset, arguments.dataset, locations) if arguments.dataset else None
    if main_set and main_set.is_compositional:
        right = f"--dataset {main_set.inputs_of} --secondary_task_dataset {main_set.name}"
        mistakes.append(f"--dataset {main_set.name} is compositional: use {right}")
    variant = arguments.tgt_lang or arguments.tgt_tone
    if not (arguments.secondary_task or arguments.secondary_task_dataset):
        mistakes.when(bool(variant), "--tgt_lang and --tgt_tone need --secondary_task and --secondary_task_dataset")
        return main_set, main_set
    wanted = {"translation": "tgt_lang", "tone_adjustment": "tgt_tone"}.get(arguments.secondary_task or "")
    mistakes.when(not arguments.secondary_task, "--secondary_task is missing: translation or tone_adjustment")
    mistakes.when(not arguments.secondary_task_dataset, "--secondary_task_dataset is missing: the targets after both tasks")
    for flag in ("tgt_lang", "tgt_tone"):
        given = getattr(arguments, flag)
        mistakes.when(bool(wanted) and flag == wanted and not given, f"--secondary_task {arguments.secondary_task} needs --{flag}")
        mistakes.when(
            bool(wanted) and flag != wanted and bool(given), f"--{flag} contradicts --secondary_task {arguments.secondary_task}"
        )
    task_set = (
        mistakes.attempt(find_dataset, arguments.secondary_task_dataset, locations) if arguments.secondary_task_dataset else None
    )
    if main_set and task_set:
        _check_composition(arguments, main_set, task_set, getattr(arguments, wanted) if wanted else None, mistakes)
    return main_set, task_set


def _check_composition(
    arguments: Arguments, main_set: Dataset, task_set: Dataset, variant: str | None, mistakes: _Mistakes
) -> None:
    if not task_set.is_compositional:
        mistakes.append(f"--secondary_task_dataset {task_set.name} has targets of one task only ({task_set.main_task.name})")
        return
    auxiliary: Task = task_set.tasks[1]
    mistakes.when(
        task_set.inputs_of != main_set.name,
        f"--secondary_task_dataset {task_set.name} has the inputs of {task_set.inputs_of}, not of --dataset {main_set.name}",
    )
    if arguments.secondary_task and auxiliary.name != arguments.secondary_task:
        mistakes.append(f"--secondary_task {arguments.secondary_task}: {task_set.name} is made for {auxiliary.name}")
    elif variant and auxiliary.variant != variant:
        flag = "tgt_lang" if auxiliary.name == "translation" else "tgt_tone"
        mistakes.append(f"--{flag} {variant}: the data of {task_set.name} is {auxiliary.variant}")


def _adapter_configs(workspace: Workspace, names: list[str], mistakes: _Mistakes) -> dict[str, AdapterConfig]:
    configs = {}
    for name in names:
        folder = workspace.stored_model(name)
        if not folder.is_dir():
            stored = [path.name for path in folder.parent.glob("*") if path.is_dir() and not path.name.startswith(".")]
            hint = nearest(name, stored) if stored else "train it first, with --do_train"
            mistakes.append(f"there is no adapter {name} in {folder.parent}: {hint}")
        elif config := mistakes.attempt(read_config, folder):
            configs[name] = config
    return configs


def _base_model(
    arguments: Arguments, configs: dict[str, AdapterConfig], main_set: Dataset | None, mistakes: _Mistakes
) -> BaseModel | None:
    """The base model that is named, else the adapters', else Pocket's for Pocket's data."""
    named = arguments.model_name_or_path or mistakes.attempt(_base_of_stored_model, arguments)
    for name, config in configs.items():
        named = named or config.base_model
        mistakes.when(
            not _same_model(config.base_model, named),
            f"adapter {name} was trained on {config.base_model}, not on {named}: name adapters of one base model",
        )
    if not named and main_set and main_set.name.startswith("pocket_"):
        named = "pocket"
    if not named:
        if not mistakes:
            mistakes.append("--model_name_or_path is missing: a hub id, a folder, or pocket")
        return None
    # An adapter records its base by name: a folder's must not depend on where the command is typed.
    base = BaseModel(str(Path(named).resolve()) if named != POCKET and Path(named).is_dir() else named)
    mistakes.attempt(base.check_exists)
    return base


def _same_model(one: str, other: str) -> bool:
    return one == other or (Path(one).is_dir() and Path(other).is_dir() and Path(one).resolve() == Path(other).resolve())


def _base_of_stored_model(arguments: Arguments) -> str | None:
    """Zero-shot commands name the main task's adapter only to say which model is meant."""
    folder = Workspace(Path(arguments.workspace)).stored_model(arguments.stored_model_name or "")
    if arguments.zero_shot and arguments.stored_model_name and (folder / "adapter_config.json").is_file():
        return read_config(folder).base_model
    return None


def _check_shapes_agree(workspace: Workspace, names: list[str]) -> None:
    first, *others = names
    shapes = read_shapes(workspace.stored_model(first))
    for other in others:
        for path, shape in read_shapes(workspace.stored_model(other)).items():
            if path in shapes and shapes[path] != shape:
                ours, theirs = " × ".join(map(str, shapes[path])), " × ".join(map(str, shape))
                raise UserError(f"adapters {first} and {other} do not fit together: {path} is {ours} in one, {theirs} in the other")
