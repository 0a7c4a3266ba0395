"""The paper's commands are plans, word for word."""

from __future__ import annotations

import json

import pytest

from compositional.adapters.peft_folder import CONFIG_FILE
from compositional.experiment.arguments import CALIBRATION, JOINT_EXPERT, LORA, MERGE, MULTI_STEP, ZERO_SHOT
from helpers.planning import STABLELM, plan_of

PAPER_COMPOSED = "--tgt_lang es --secondary_task translation --secondary_task_dataset dialogsum_es --dataset dialogsum "
PAPER_MAIN = (
    "--experiment_name sum_tr_es_main_lora_slm_v1 --tgt_lang es --secondary_task_dataset dialogsum_es --dataset dialogsum "
    "--stored_model_name dialogsum_lora_slm_v1 --secondary_task translation --do_valid --do_predict "
)
PAPER_ADAPTERS = "--lora_merge_modules dialogsum_lora_slm_v1 tedtalks_es_lora_slm_v1 "


def test_the_papers_training_command_is_a_plan(workspace):
    plan = plan_of(
        f"--experiment_name dialogsum_lora_slm_v1 --model_name_or_path {STABLELM} --dataset dialogsum "
        "--stored_model_name dialogsum_lora_slm_v1 --do_train --do_valid --do_predict",
        workspace,
    )
    assert (plan.method, plan.base.name, plan.written_adapter) == (LORA, STABLELM, "dialogsum_lora_slm_v1")
    assert plan.splits == {"valid": "validation", "test": "test"}
    assert plan.training_set is plan.task_set is plan.main_set
    assert plan.arguments.batch_size * plan.arguments.gradient_accumulation_steps == 3 * 64


ZERO_SHOT_COMMAND = (
    "--experiment_name sum_tr_es_zero_shot_slm_v1 --tgt_lang es --secondary_task_dataset dialogsum_es --dataset dialogsum "
    "--stored_model_name dialogsum_lora_slm_v1 --zero_shot --secondary_task translation --do_valid --do_predict"
)
JOINT_COMMAND = (
    f"--experiment_name sum_tr_es_joint_expert_lora_slm_v1 {PAPER_COMPOSED}--model_name_or_path {STABLELM} "
    "--stored_model_name sum_tr_es_joint_expert_lora_slm_v1 --multi_task_train_targets --do_train --do_valid --do_predict"
)
CALIBRATION_COMMAND = (
    f"--experiment_name sum_tr_es_lc_pp --stored_model_name dialogsum_lora_slm_v1 {PAPER_COMPOSED}{PAPER_ADAPTERS}"
    "--for_each_component --lora_merge_strategy learnable_calibration_pp --merge_datasets dialogsum_es "
    "--num_examples_merge 10000 --do_valid --do_predict"
)
BOTH = ["dialogsum_lora_slm_v1", "tedtalks_es_lora_slm_v1"]


@pytest.mark.parametrize(
    ("flags", "method", "adapters_read", "written"),
    [
        (ZERO_SHOT_COMMAND, ZERO_SHOT, [], None),
        (PAPER_MAIN, LORA, BOTH[:1], None),
        (f"{PAPER_MAIN}--lora_merge_strategy peft_linear {PAPER_ADAPTERS}", MERGE, BOTH, "sum_tr_es_main_lora_slm_v1"),
        (
            f"{PAPER_MAIN}--secondary_stored_model_name tedtalks_es_lora_slm_v1 --multi_step_prompts --prompt_style empty",
            MULTI_STEP,
            BOTH,
            None,
        ),
        (JOINT_COMMAND, JOINT_EXPERT, [], "sum_tr_es_joint_expert_lora_slm_v1"),
        (CALIBRATION_COMMAND, CALIBRATION, BOTH, "sum_tr_es_lc_pp"),
    ],
    ids=["zero-shot", "main LoRA", "linear merge", "multi-step", "joint expert", "LC++"],
)
def test_the_papers_compositional_commands_are_plans_on_the_adapters_base_model(
    flags, method, adapters_read, written, paper_adapters
):
    plan = plan_of(flags, paper_adapters)
    assert (plan.method, list(plan.adapters), plan.written_adapter) == (method, adapters_read, written)
    assert plan.base.name == STABLELM
    assert (plan.main_set.name, plan.task_set.name) == ("dialogsum", "dialogsum_es")
    assert [task.name for task in plan.task_set.tasks] == ["summarization", "translation"]
    assert plan.splits == {"valid": "validation", "test": "test"}


def test_a_joint_expert_trains_on_the_compositional_set_and_lc_pp_learns_from_10000_examples_of_it(paper_adapters):
    assert plan_of(JOINT_COMMAND, paper_adapters).training_set.name == "dialogsum_es"
    plan = plan_of(CALIBRATION_COMMAND, paper_adapters)
    assert [dataset.name for dataset in plan.merge_sets] == ["dialogsum_es"]
    assert (plan.arguments.num_examples_merge, plan.arguments.for_each_component) == (10000, True)


@pytest.mark.parametrize("tone", ["professional", "casual", "witty", "paraphrase"])
def test_the_papers_tone_commands_are_plans(tone, paper_adapters):
    plan = plan_of(
        f"--experiment_name e --dataset synthetic_persona_chat --secondary_task tone_adjustment --tgt_tone {tone} "
        f"--secondary_task_dataset synthetic_persona_chat_{tone} --stored_model_name dialogsum_lora_slm_v1 "
        "--gradient_accumulation_steps 4 --do_predict",
        paper_adapters,
    )
    assert [(task.name, task.variant) for task in plan.task_set.tasks] == [("reply", None), ("tone_adjustment", tone)]
    assert plan.arguments.gradient_accumulation_steps == 4


def test_the_base_model_is_read_from_the_adapters_own_configuration(paper_adapters):
    config = paper_adapters.stored_model("dialogsum_lora_slm_v1") / CONFIG_FILE
    config.write_text(json.dumps(json.loads(config.read_text()) | {"base_model_name_or_path": "some/other"}), encoding="utf-8")
    assert plan_of(PAPER_MAIN, paper_adapters).base.name == "some/other"
    assert plan_of(ZERO_SHOT_COMMAND, paper_adapters).base.name == "some/other"
