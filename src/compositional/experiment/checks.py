"""Checks of a command: flags that contradict or need each other, and data sets and adapters that do not fit together."""

from __future__ import annotations

from pathlib import Path

from compositional.adapters.peft_folder import CONFIG_FILE, StoredAdapter
from compositional.calibration import check_calibration_fits
from compositional.core.errors import Mistakes, UserError, nearest
from compositional.core.servers import is_url
from compositional.core.workspace import Workspace
from compositional.data import Dataset, Locations, find_dataset
from compositional.experiment.arguments import JOINT_EXPERT, LORA, MULTI_STEP, SECONDARY_TASKS, Arguments
from compositional.formats.gguf import QUANTIZED
from compositional.merging import Strategy
from compositional.models.model import POCKET, Model
from compositional.prediction import LLAMA_CPP


def contradictions(arguments: Arguments, method: str, merge_strategy: Strategy | None) -> list[str]:
    """A message for each rule that the command breaks."""
    composed = bool(arguments.secondary_task or arguments.secondary_task_dataset)
    predicts = arguments.do_valid or arguments.do_predict
    strategy = arguments.lora_merge_strategy
    single_tasks = bool(merge_strategy and merge_strategy.learns_single_tasks)
    weights, modules = len(arguments.lora_merge_weights), len(arguments.lora_merge_modules)
    merges = min(1, len(arguments.merge_datasets)) if single_tasks else len(arguments.merge_datasets)
    merged = modules // max(1, merges)
    groups = [arguments.lora_merge_modules[start : start + merged] for start in range(0, modules, max(1, merged))]
    learns = bool((merge_strategy and merge_strategy.learns) or arguments.calibrate)
    rules = [
        (bool(strategy) and modules < 2, "--lora_merge_strategy needs two or more --lora_merge_modules"),
        (
            bool(strategy) and modules > 1 and (merged < 2 or modules % max(1, merges) != 0),
            f"--merge_datasets names {merges} sets: --lora_merge_modules needs as many groups of two or more adapters, "
            f"one after the other, {modules} adapters were given",
        ),
        (bool(arguments.lora_merge_modules) and not strategy, "--lora_merge_modules needs --lora_merge_strategy"),
        (bool(arguments.lora_merge_weights) and not strategy, "--lora_merge_weights needs --lora_merge_strategy"),
        (bool(arguments.lora_merge_options) and not strategy, "--lora_merge_options needs --lora_merge_strategy"),
        (
            arguments.ignore_recorded_base_model and not arguments.model_name_or_path,
            "--ignore_recorded_base_model needs --model_name_or_path: the base model that is meant",
        ),
        (bool(arguments.compact_rank) and not strategy, "--compact_rank needs --lora_merge_strategy: it is for merges"),
        (bool(arguments.calibrate) and not strategy, "--calibrate needs --lora_merge_strategy, the merge that is calibrated"),
        (
            arguments.experiment_name in arguments.lora_merge_modules,
            f"--experiment_name {arguments.experiment_name} is one of --lora_merge_modules, and the merge would take its place",
        ),
        (0 < weights != merged, f"--lora_merge_weights: as many weights as adapters are needed, {weights} given for {merged}"),
        (
            any(len(set(group)) < len(group) for group in groups),
            "--lora_merge_modules names an adapter twice; use --lora_merge_weights to give it more weight",
        ),
        (
            arguments.do_train and bool(strategy),
            "--do_train contradicts --lora_merge_strategy: train the adapters in runs of their own",
        ),
        (
            arguments.bf16 and arguments.train_dtype == "bfloat16",
            "--bf16 contradicts --train_dtype bfloat16: mixed precision has a float32 base",
        ),
        *_wrong_llama_cpp(arguments),
        (arguments.zero_shot and arguments.do_train, "--zero_shot contradicts --do_train"),
        (arguments.zero_shot and bool(strategy), "--zero_shot contradicts --lora_merge_strategy"),
        (arguments.zero_shot and arguments.multi_step_prompts, "--zero_shot contradicts --multi_step_prompts"),
        (arguments.multi_step_prompts and bool(strategy), "--multi_step_prompts contradicts --lora_merge_strategy"),
        (arguments.multi_step_prompts and arguments.do_train, "--multi_step_prompts contradicts --do_train"),
        (arguments.multi_step_prompts and not composed, "--multi_step_prompts needs --secondary_task and --secondary_task_dataset"),
        (
            arguments.multi_step_prompts and not (arguments.stored_model_name and arguments.secondary_stored_model_name),
            "--multi_step_prompts needs --stored_model_name and --secondary_stored_model_name",
        ),
        (
            arguments.multi_step_prompts and arguments.prompt_style != "empty",
            "--multi_step_prompts asks for each task in a step of its own: add --prompt_style empty",
        ),
        (
            bool(arguments.secondary_stored_model_name) and not (arguments.multi_step_prompts or arguments.auxiliary_lora),
            "--secondary_stored_model_name needs --multi_step_prompts or --auxiliary_lora",
        ),
        (
            arguments.multi_step_prompts
            and bool(arguments.secondary_stored_model_name and arguments.secondary_task)
            and len(arguments.secondary_stored_model_name) != len(arguments.secondary_task),
            "--secondary_stored_model_name: an adapter for each --secondary_task is needed",
        ),
        (
            arguments.auxiliary_lora and len(arguments.secondary_stored_model_name) != 1,
            "--auxiliary_lora needs --secondary_stored_model_name, the one adapter that answers",
        ),
        *(
            (arguments.auxiliary_lora and bool(getattr(arguments, other)), f"--auxiliary_lora contradicts --{other}")
            for other in ("zero_shot", "do_train", "lora_merge_strategy", "multi_step_prompts", "multi_task_train_targets")
        ),
        (bool(arguments.in_context_examples) and not predicts, "--in_context_examples needs --do_valid or --do_predict"),
        (
            bool(arguments.in_context_examples) and arguments.multi_step_prompts,
            "--in_context_examples contradicts --multi_step_prompts: solved examples show all tasks in one step",
        ),
        (
            arguments.multi_task_train_targets and not composed,
            "--multi_task_train_targets needs --secondary_task and --secondary_task_dataset",
        ),
        (arguments.multi_task_train_targets and bool(strategy), "--multi_task_train_targets contradicts --lora_merge_strategy"),
        (arguments.multi_task_train_targets and arguments.zero_shot, "--multi_task_train_targets contradicts --zero_shot"),
        (
            learns and not single_tasks and not merges,
            f"{arguments.calibrate or strategy} needs --merge_datasets, a compositional data set to learn from",
        ),
        (
            single_tasks and len(arguments.merge_datasets) != modules,
            f"{strategy} learns from the data of single tasks: --merge_datasets needs one set for each of --lora_merge_modules, "
            "in their order",
        ),
        (
            single_tasks and bool(arguments.calibrate),
            f"--calibrate contradicts --lora_merge_strategy {strategy}: one learns from a compositional set, the other from those "
            "of single tasks",
        ),
        (merges > 1 and not arguments.calibrate, "several --merge_datasets need --calibrate, whose calibration they share"),
        (merges > 0 and not learns, "--merge_datasets needs --calibrate, or a --lora_merge_strategy that learns from examples"),
        *_wrong_own_targets(arguments),
        (arguments.for_each_component and not arguments.calibrate, "--for_each_component needs --calibrate"),
        (bool(arguments.calibration_modules) and not arguments.calibrate, "--calibration_modules needs --calibrate"),
        (arguments.calibration_layer_groups != 1 and not arguments.calibrate, "--calibration_layer_groups needs --calibrate"),
        (bool(arguments.stored_calibration) and not strategy, "--stored_calibration needs --lora_merge_strategy"),
        (
            bool(arguments.stored_calibration and arguments.calibrate),
            "--stored_calibration contradicts --calibrate: take a calibration, or learn one",
        ),
        (
            bool(arguments.experiment_name) and arguments.stored_calibration == arguments.experiment_name,
            f"--stored_calibration {arguments.experiment_name} is this experiment: name the one that has learned it",
        ),
        (
            predicts and method in (LORA, JOINT_EXPERT) and not arguments.stored_model_name,
            "predictions need an adapter: add --stored_model_name, --lora_merge_strategy, or --zero_shot for the base model alone",
        ),
    ]
    return [message for wrong, message in rules if wrong]


def _wrong_llama_cpp(arguments: Arguments) -> list[tuple[bool, str]]:
    """What contradicts or lacks --prediction_backend llama_cpp, each with whether it is so."""
    url, dtype, other = arguments.llama_cpp_url, arguments.prediction_dtype, arguments.prediction_backend != LLAMA_CPP
    return [
        (url is not None and other, f"--llama_cpp_url needs --prediction_backend {LLAMA_CPP}"),
        (url is not None and not is_url(url), f"--llama_cpp_url {url}: expected a URL such as http://localhost:8080"),
        (
            url is not None and dtype != "auto",
            f"--prediction_dtype {dtype} contradicts --llama_cpp_url: the server's files have a precision already",
        ),
        (dtype in QUANTIZED and other, f"--prediction_dtype {dtype} needs --prediction_backend {LLAMA_CPP}"),
    ]


def _wrong_own_targets(arguments: Arguments) -> list[tuple[bool, str]]:
    """What contradicts --calibration_targets multi_step, each with whether it is so."""
    asked, flag = arguments.calibration_targets == MULTI_STEP, "--calibration_targets multi_step"
    tasks, modules = 1 + len(arguments.secondary_task), len(arguments.lora_merge_modules)
    return [
        (asked and not arguments.calibrate, f"{flag} needs --calibrate, or a calibration as --lora_merge_strategy"),
        (asked and len(arguments.merge_datasets) > 1, f"{flag}: a shared calibration learns from data sets only"),
        (
            asked and bool(arguments.secondary_task) and modules != tasks,
            f"{flag} needs one of --lora_merge_modules per task, in order: {tasks} tasks, {modules} adapters",
        ),
    ]


_VARIANT_FLAGS = dict(zip(SECONDARY_TASKS, ("tgt_lang", "tgt_tone"), strict=True))


def data_sets(arguments: Arguments, locations: Locations, mistakes: Mistakes) -> tuple[Dataset | None, Dataset | None]:
    """The set of the main (or only) task, and the set of the requested task or composition of tasks."""
    main_set = mistakes.attempt(find_dataset, arguments.dataset, locations) if arguments.dataset else None
    if main_set and main_set.is_compositional:
        right = f"--dataset {main_set.inputs_of} --secondary_task_dataset {main_set.name}"
        mistakes.append(f"--dataset {main_set.name} is compositional: use {right}")
    if not (arguments.secondary_task or arguments.secondary_task_dataset):
        variant = arguments.tgt_lang or arguments.tgt_tone
        mistakes.when(bool(variant), "--tgt_lang and --tgt_tone need --secondary_task and --secondary_task_dataset")
        return main_set, main_set
    mistakes.when(not arguments.secondary_task, f"--secondary_task is missing: {' or '.join(SECONDARY_TASKS)}")
    mistakes.when(not arguments.secondary_task_dataset, "--secondary_task_dataset is missing: the targets after both tasks")
    _check_variants(arguments, mistakes)
    task_set = (
        mistakes.attempt(find_dataset, arguments.secondary_task_dataset, locations) if arguments.secondary_task_dataset else None
    )
    if main_set and task_set:
        _check_composition(arguments, main_set, task_set, mistakes)
    return main_set, task_set


def merge_sets(arguments: Arguments, merge_strategy: Strategy | None, locations: Locations, mistakes: Mistakes) -> list[Dataset]:
    """The sets of --merge_datasets."""
    known_sets = [one for name in arguments.merge_datasets if (one := mistakes.attempt(find_dataset, name, locations))]
    if merge_strategy and merge_strategy.learns_single_tasks:
        for one in known_sets:
            mistakes.when(
                one.is_compositional,
                f"--merge_datasets {one.name}: {merge_strategy.name} learns from single tasks, and this set is compositional",
            )
    else:
        _check_composed_sets(arguments, known_sets, mistakes)
    mistakes.when(len(set(arguments.merge_datasets)) < len(arguments.merge_datasets), "--merge_datasets names a data set twice")
    return known_sets


def _check_composed_sets(arguments: Arguments, known_sets: list[Dataset], mistakes: Mistakes) -> None:
    for one in known_sets:
        unlabelled = arguments.calibration_targets == MULTI_STEP and one.name == arguments.dataset
        mistakes.when(not (one.is_compositional or unlabelled), f"--merge_datasets {one.name}: a compositional data set is needed")
    requested = arguments.secondary_task_dataset
    mistakes.when(
        len(known_sets) > 1 and requested not in arguments.merge_datasets,
        f"--secondary_task_dataset {requested} is none of --merge_datasets: which of the merges should answer?",
    )


def _check_variants(arguments: Arguments, mistakes: Mistakes) -> None:
    """Check that each secondary task has its language or tone, and that none is given for a task that is not requested."""
    for task, flag in _VARIANT_FLAGS.items():
        requested, given = task in arguments.secondary_task, bool(getattr(arguments, flag))
        mistakes.when(requested and not given, f"--secondary_task {task} needs --{flag}")
        others = bool(arguments.secondary_task) and not requested
        mistakes.when(others and given, f"--{flag} contradicts --secondary_task {' '.join(arguments.secondary_task)}")


def _check_composition(arguments: Arguments, main_set: Dataset, task_set: Dataset, mistakes: Mistakes) -> None:
    if not task_set.is_compositional:
        mistakes.append(f"--secondary_task_dataset {task_set.name} has targets of one task only ({task_set.main_task.name})")
        return
    mistakes.when(
        task_set.inputs_of != main_set.name,
        f"--secondary_task_dataset {task_set.name} has the inputs of {task_set.inputs_of}, not of --dataset {main_set.name}",
    )
    auxiliary = task_set.tasks[1:]
    names, requested = " ".join(task.name for task in auxiliary), " ".join(arguments.secondary_task)
    if requested and requested != names:
        mistakes.append(f"--secondary_task {requested}: {task_set.name} is made for {names}")
        return
    for task in auxiliary:
        flag = _VARIANT_FLAGS[task.name]
        given = getattr(arguments, flag)
        mistakes.when(bool(given) and given != task.variant, f"--{flag} {given}: the data of {task_set.name} is {task.variant}")


def stored_adapters(workspace: Workspace, names: list[str], mistakes: Mistakes) -> dict[str, StoredAdapter]:
    """The existing adapters among `names`, by name. Their configurations are read; the others are mistakes.

    So is a calibration beside an adapter that is damaged, or not of its modules: its biases would be lost.
    """
    adapters = {}
    for name in names:
        adapter = StoredAdapter(workspace.stored_model(name))
        if not adapter.folder.is_dir():
            folder = adapter.folder.parent
            stored = [path.name for path in folder.glob("*") if path.is_dir() and not path.name.startswith(".")]
            hint = nearest(name, stored) if stored else "train it first, with --do_train"
            mistakes.append(f"there is no adapter {name} in {folder}: {hint}")
        elif mistakes.attempt(lambda adapter=adapter: adapter.config):
            adapters[name] = adapter
            mistakes.attempt(check_calibration_fits, adapter.folder, adapter.shapes)
    return adapters


def base_model(
    arguments: Arguments, workspace: Workspace, adapters: dict[str, StoredAdapter], main_set: Dataset | None, mistakes: Mistakes
) -> Model | None:
    """The named base model, else that of the adapters, else Pocket's for Pocket's data."""
    named = arguments.model_name_or_path or mistakes.attempt(_base_of_stored_model, arguments, workspace)
    for name, adapter in adapters.items():
        trained_on = adapter.config.base_model
        if not trained_on:
            unnamed = not arguments.model_name_or_path
            mistakes.when(unnamed, f"adapter {name} does not record its base model: name it with --model_name_or_path")
            continue
        named = named or trained_on
        mistakes.when(
            not arguments.ignore_recorded_base_model and not _same_model(trained_on, named),
            f"adapter {name} was trained on {trained_on}, not on {named}: name adapters of one base model, or add "
            "--ignore_recorded_base_model where both names mean the same weights",
        )
    if not named and main_set and main_set.benchmark == "pocket":
        named = POCKET
    if not named:
        if not mistakes:
            mistakes.append("--model_name_or_path is missing: a hub id, a folder, or pocket")
        return None
    # Adapters record the name of their base model. For a folder, it must not depend on the current directory.
    base = Model(str(Path(named).resolve()) if named != POCKET and Path(named).is_dir() else named)
    mistakes.attempt(base.check_exists)
    return base


def check_shapes_agree(adapters: dict[str, StoredAdapter]) -> None:
    """Raise UserError when adapters update the same module path with different shapes."""
    first, *others = adapters.values()
    for other in others:
        for path, shape in other.shapes.items():
            if path in first.shapes and first.shapes[path] != shape:
                ours, theirs = " × ".join(map(str, first.shapes[path])), " × ".join(map(str, shape))
                raise UserError(
                    f"adapters {first.name} and {other.name} do not fit together: {path} is {ours} in one, {theirs} in the other"
                )


def check_named_once(adapters: dict[str, StoredAdapter]) -> None:
    """Raise UserError when two names stand for one adapter, by a link: a merge would count it twice."""
    names: dict[Path, str] = {}
    for name, adapter in adapters.items():
        folder = adapter.folder.resolve()
        if (first := names.setdefault(folder, name)) != name:
            raise UserError(
                f"--lora_merge_modules: {first} and {name} are one adapter ({folder}): name it once, and use --lora_merge_weights "
                "to give it more weight"
            )


def _same_model(one: str, other: str) -> bool:
    return one == other or (Path(one).is_dir() and Path(other).is_dir() and Path(one).resolve() == Path(other).resolve())


def _base_of_stored_model(arguments: Arguments, workspace: Workspace) -> str | None:
    """The base model of the adapter named in a zero-shot command, where the adapter only identifies the model."""
    if not (arguments.zero_shot and arguments.stored_model_name):
        return None
    adapter = StoredAdapter(workspace.stored_model(arguments.stored_model_name))
    return adapter.config.base_model if (adapter.folder / CONFIG_FILE).is_file() else None
