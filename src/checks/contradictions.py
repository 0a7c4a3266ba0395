"""Flags that contradict or need each other, as a table of rules."""

from __future__ import annotations

from src.arguments import Arguments
from src.methods import CALIBRATION, JOINT_EXPERT, LORA


def contradictions(arguments: Arguments, method: str) -> list[str]:
    """A line for each rule that a command breaks."""
    composed = bool(arguments.secondary_task or arguments.secondary_task_dataset)
    predicts = arguments.do_valid or arguments.do_predict
    strategy = arguments.lora_merge_strategy
    weights, modules = len(arguments.lora_merge_weights), len(arguments.lora_merge_modules)
    rules = [
        (bool(strategy) and modules < 2, "--lora_merge_strategy needs two or more --lora_merge_modules"),
        (bool(arguments.lora_merge_modules) and not strategy, "--lora_merge_modules needs --lora_merge_strategy"),
        (bool(arguments.lora_merge_weights) and not strategy, "--lora_merge_weights needs --lora_merge_strategy"),
        (bool(arguments.lora_merge_options) and not strategy, "--lora_merge_options needs --lora_merge_strategy"),
        (bool(arguments.calibrate) and not strategy, "--calibrate needs --lora_merge_strategy, the merge that is calibrated"),
        (
            arguments.experiment_name in arguments.lora_merge_modules,
            f"--experiment_name {arguments.experiment_name} is one of --lora_merge_modules, and the merge would take its place",
        ),
        (0 < weights != modules, f"--lora_merge_weights: as many weights as adapters are needed, {weights} given for {modules}"),
        (
            len(set(arguments.lora_merge_modules)) < len(arguments.lora_merge_modules),
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
            bool(arguments.secondary_stored_model_name) and not arguments.multi_step_prompts,
            "--secondary_stored_model_name needs --multi_step_prompts",
        ),
        (
            arguments.multi_task_train_targets and not composed,
            "--multi_task_train_targets needs --secondary_task and --secondary_task_dataset",
        ),
        (arguments.multi_task_train_targets and bool(strategy), "--multi_task_train_targets contradicts --lora_merge_strategy"),
        (arguments.multi_task_train_targets and arguments.zero_shot, "--multi_task_train_targets contradicts --zero_shot"),
        (
            method == CALIBRATION and not arguments.merge_datasets,
            f"{arguments.calibrate} needs --merge_datasets, a compositional data set to learn from",
        ),
        (len(arguments.merge_datasets) > 1, "--merge_datasets takes one data set"),
        (bool(arguments.merge_datasets) and method != CALIBRATION, "--merge_datasets needs --calibrate"),
        (arguments.for_each_component and method != CALIBRATION, "--for_each_component needs --calibrate"),
        (
            predicts and method in (LORA, JOINT_EXPERT) and not arguments.stored_model_name,
            "predictions need an adapter: add --stored_model_name, --lora_merge_strategy, or --zero_shot for the base model alone",
        ),
    ]
    return [message for wrong, message in rules if wrong]
