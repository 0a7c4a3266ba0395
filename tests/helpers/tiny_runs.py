"""Runs of the experiment command on tiny models, and the methods as flags."""

from __future__ import annotations

from pathlib import Path

TINY_RUN = (
    "--max_test_examples 6 --max_valid_examples 4 --max_train_examples 16 --max_new_tokens 8 --learning_rate 1e-2 "
    "--batch_size 4 --gradient_accumulation_steps 1 --lora_rank 4 --bootstrap_resamples 50 --warmup_steps 0 --report_to none "
)
COMPOSED = "--dataset pocket_dialogs --secondary_task translation --tgt_lang es --secondary_task_dataset pocket_dialogs_es "
ZERO_SHOT = f"{TINY_RUN}--experiment_name z --dataset pocket_dialogs --zero_shot "
MODULES = "--lora_merge_modules sums translation "
LEARNED = f"--merge_datasets pocket_dialogs_es --num_examples_merge 16 {MODULES}--lora_merge_strategy "
METHODS = {
    "zero_shot": "--zero_shot --stored_model_name sums ",
    "main_lora": "--stored_model_name sums ",
    "auxiliary_lora": "--stored_model_name translation ",
    "linear": f"--lora_merge_strategy linear {MODULES}",
    "peft_linear": f"--lora_merge_strategy peft_linear {MODULES}",
    "multi_step": "--stored_model_name sums --secondary_stored_model_name translation --multi_step_prompts --prompt_style empty ",
    "joint_expert": "--stored_model_name joint --multi_task_train_targets --do_train ",
    "lc": f"{LEARNED}learnable_calibration --for_each_component ",
    "lc_by_shape": f"{LEARNED}learnable_calibration ",
    "lc_pp": f"{LEARNED}learnable_calibration_pp --for_each_component ",
    "ties": f"--lora_merge_strategy ties --lora_merge_options density=0.3 rank=4 {MODULES}",
    "lc_pp_on_ties": f"{LEARNED}ties --calibrate learnable_calibration_pp --for_each_component ",
}


LENGTHS = "--max_new_tokens 12 --max_prompt_length 1000 --max_test_examples 8 "
LEARNING = "--calibration_learning_rate 0.3 "  # so that a calibration changes what is said


def method_run(model: Path, name: str) -> str:
    """The flags of a method's experiment, long enough that no two methods say the same."""
    learning = LEARNING if name.startswith("lc") else ""
    base = f"{TINY_RUN}{LENGTHS}--model_name_or_path {model} --experiment_name {name} --do_predict "
    return f"{base}{COMPOSED}{METHODS[name]}{learning}"


def train_single_tasks(run, model: Path) -> None:
    base = f"{TINY_RUN}--model_name_or_path {model} --do_train "
    run(f"{base}--experiment_name sums --dataset pocket_dialogs --stored_model_name sums")
    run(f"{base}--experiment_name translation --dataset pocket_sentences_es --stored_model_name translation")
