"""Flags that contradict or need each other, as a table of rules."""

from __future__ import annotations

from src.arguments import Arguments
from src.methods import JOINT_EXPERT, LORA


def contradictions(arguments: Arguments, method: str, learns_merge: bool) -> list[str]:
    """A line for each rule that a command breaks. `learns_merge` is whether the merge strategy learns from examples."""
    composed = bool(arguments.secondary_task or arguments.secondary_task_dataset)
    predicts = arguments.do_valid or arguments.do_predict
    strategy = arguments.lora_merge_strategy
    weights, modules, merges = len(arguments.lora_merge_weights), len(arguments.lora_merge_modules), len(arguments.merge_datasets)
    merged = modules // max(1, merges)
    groups = [arguments.lora_merge_modules[start : start + merged] for start in range(0, modules, max(1, merged))]
    learns = learns_merge or bool(arguments.calibrate)
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
            learns and not merges,
            f"{arguments.calibrate or strategy} needs --merge_datasets, a compositional data set to learn from",
        ),
        (merges > 1 and not arguments.calibrate, "several --merge_datasets need --calibrate, whose calibration they share"),
        (merges > 0 and not learns, "--merge_datasets needs --calibrate, or a --lora_merge_strategy that learns from examples"),
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
