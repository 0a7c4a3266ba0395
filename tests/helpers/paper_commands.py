"""The paper's eight commands, letter by letter as published, with the model's name in each."""

from __future__ import annotations

import shlex

PAPER_MODEL = "stabilityai/stablelm-2-1_6b-chat"
PAPER_JUDGE = "meta-llama/Llama-3.1-70B-Instruct"
SUMMARIZATION_LORA = "CUDA_VISIBLE_DEVICES=0 python run_experiment.py --experiment_name dialogsum_lora_slm_v1 --model_name_or_path stabilityai/stablelm-2-1_6b-chat --dataset dialogsum --stored_model_name dialogsum_lora_slm_v1 --do_train --do_valid --do_predict"  # noqa: E501
ZERO_SHOT = "CUDA_VISIBLE_DEVICES=0 python run_experiment.py --experiment_name sum_tr_es_zero_shot_slm_v1 --model_name_or_path stabilityai/stablelm-2-1_6b-chat --tgt_lang es --secondary_task_dataset dialogsum_es --dataset dialogsum --stored_model_name dialogsum_lora_slm_v1 --zero_shot --secondary_task translation --do_valid --do_predict"  # noqa: E501
MAIN_LORA = "CUDA_VISIBLE_DEVICES=0 python run_experiment.py --experiment_name sum_tr_es_sum_lora_only_slm_v1 --model_name_or_path stabilityai/stablelm-2-1_6b-chat --tgt_lang es --secondary_task_dataset dialogsum_es --dataset dialogsum --stored_model_name dialogsum_lora_slm_v1 --secondary_task translation --do_valid --do_predict"  # noqa: E501
LINEAR_MERGE = "CUDA_VISIBLE_DEVICES=0 python run_experiment.py --experiment_name sum_tr_es_linear_merge_slm_v1 --model_name_or_path stabilityai/stablelm-2-1_6b-chat --tgt_lang es --secondary_task_dataset dialogsum_es --dataset dialogsum --lora_merge_strategy peft_linear --lora_merge_modules dialogsum_lora_slm_v1 tedtalks_es_lora_slm_v1 --stored_model_name dialogsum_lora_slm_v1 --secondary_task translation --do_valid --do_predict"  # noqa: E501
MULTI_STEP = "CUDA_VISIBLE_DEVICES=0 python run_experiment.py --experiment_name sum_tr_es_multi_step_slm_v1 --model_name_or_path stabilityai/stablelm-2-1_6b-chat --tgt_lang es --secondary_task_dataset dialogsum_es --dataset dialogsum --stored_model_name dialogsum_lora_slm_v1 --secondary_stored_model_name tedtalks_es_lora_slm_v1 --secondary_task translation --do_valid --do_predict --multi_step_prompts --prompt_style empty"  # noqa: E501
JOINT_EXPERT = "CUDA_VISIBLE_DEVICES=0 python run_experiment.py --experiment_name sum_tr_es_joint_expert_lora_slm_v1 --model_name_or_path stabilityai/stablelm-2-1_6b-chat --tgt_lang es --secondary_task_dataset dialogsum_es --dataset dialogsum --stored_model_name sum_tr_es_joint_expert_lora_slm_v1 --secondary_task translation --multi_task_train_targets --do_train --do_valid --do_predict"  # noqa: E501
LC_PP = "CUDA_VISIBLE_DEVICES=0 python run_experiment.py --experiment_name sum_tr_es_learnable_calibration_pp_merge_slm_v1 --model_name_or_path stabilityai/stablelm-2-1_6b-chat --tgt_lang es --for_each_component --lora_merge_strategy learnable_calibration_pp --merge_datasets dialogsum_es --secondary_task_dataset dialogsum_es --lora_merge_modules dialogsum_lora_slm_v1 tedtalks_es_lora_slm_v1 --dataset dialogsum --stored_model_name dialogsum_lora_slm_v1 --secondary_task translation --do_valid --do_predict --num_examples_merge 10000"  # noqa: E501
JUDGE = "CUDA_VISIBLE_DEVICES=0 python llm_judge_eval.py --experiment_name sum_tr_es_learnable_calibration_pp_merge_slm_v1 --batch_size 2 --stage test"  # noqa: E501
EXPERIMENTS = (SUMMARIZATION_LORA, ZERO_SHOT, MAIN_LORA, LINEAR_MERGE, MULTI_STEP, JOINT_EXPERT, LC_PP)
COMMANDS = (*EXPERIMENTS, JUDGE)


def flags_of(command: str) -> list[str]:
    """The words after the script's name."""
    return shlex.split(command)[3:]


def experiment_of(command: str) -> str:
    flags = flags_of(command)
    return flags[flags.index("--experiment_name") + 1]
