"""Flags that contradict or need each other, and data that is not what is asked."""

from __future__ import annotations

import pytest

from helpers.planning import COMPOSED, LEARNED, MERGED, ONE, mistakes_in, plan_of, store

MULTI = "--multi_step_prompts --stored_model_name sums --secondary_stored_model_name trans --prompt_style empty "
TWO_MERGES = "--lora_merge_modules sums trans sums other "
NO_SHARED = "there is no calibration shared: {stored_models}/shared/calibration.safetensors is missing"
NOTHING_LEARNS = "--merge_datasets needs --calibrate, or a --lora_merge_strategy that learns from examples"
WEIGHTS = "--lora_merge_weights: as many weights as adapters are needed, "


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (
            "--dataset pocket_dialogs --secondary_task_dataset pocket_dialogs_es --secondary_task translation --tgt_lang fr",
            "--tgt_lang fr: the data of pocket_dialogs_es is es",
        ),
        (
            "--dataset pocket_dialogs --secondary_task_dataset pocket_dialogs_es --secondary_task translation --tgt_lang xx",
            "--tgt_lang xx: the data of pocket_dialogs_es is es",
        ),
        (
            "--dataset pocket_dialogs --secondary_task_dataset pocket_dialogs_witty --secondary_task tone_adjustment "
            "--tgt_tone casual",
            "--tgt_tone casual: the data of pocket_dialogs_witty is witty",
        ),
        (
            "--dataset pocket_dialogs --secondary_task_dataset pocket_dialogs_witty --secondary_task translation --tgt_lang es",
            "--secondary_task translation: pocket_dialogs_witty is made for tone_adjustment",
        ),
        (
            "--dataset pocket_dialogs --secondary_task_dataset pocket_dialogs_es --secondary_task translation",
            "--secondary_task translation needs --tgt_lang",
        ),
        (
            "--dataset pocket_dialogs --secondary_task_dataset pocket_dialogs_es --secondary_task translation "
            "--tgt_lang es --tgt_tone witty",
            "--tgt_tone contradicts --secondary_task translation",
        ),
        (
            "--dataset pocket_dialogs --secondary_task translation --tgt_lang es",
            "--secondary_task_dataset is missing: the targets after both tasks",
        ),
        (
            "--dataset pocket_dialogs --secondary_task_dataset pocket_dialogs_es --tgt_lang es",
            "--secondary_task is missing: translation or tone_adjustment",
        ),
        ("--dataset pocket_dialogs --tgt_lang es", "--tgt_lang and --tgt_tone need --secondary_task and --secondary_task_dataset"),
        (
            "--dataset pocket_replies --secondary_task_dataset pocket_dialogs_es --secondary_task translation --tgt_lang es",
            "--secondary_task_dataset pocket_dialogs_es has the inputs of pocket_dialogs, not of --dataset pocket_replies",
        ),
        (
            "--dataset pocket_dialogs --secondary_task_dataset pocket_sentences_es --secondary_task translation --tgt_lang es",
            "--secondary_task_dataset pocket_sentences_es has targets of one task only (translation)",
        ),
        (
            "--dataset pocket_dialogs_es",
            "--dataset pocket_dialogs_es is compositional: use --dataset pocket_dialogs --secondary_task_dataset pocket_dialogs_es",
        ),
    ],
)
def test_data_that_is_not_what_is_asked_is_a_mistake(flags, expected, adapters):
    assert mistakes_in(f"--experiment_name e --stored_model_name sums --do_predict {flags}", adapters) == [expected]


def test_calibration_data_must_be_compositional(adapters):
    assert mistakes_in(f"{COMPOSED}{LEARNED}--merge_datasets pocket_dialogs --do_predict", adapters) == [
        "--merge_datasets pocket_dialogs: a compositional data set is needed"
    ]


@pytest.mark.parametrize("flags", ["--secondary_task summarization", "--prompt_style full", "--adapter_dtype int8"])
def test_a_value_outside_a_flags_choices_is_a_mistake(flags, adapters):
    (line,) = mistakes_in(f"{ONE}--stored_model_name sums --do_predict {flags}", adapters)
    assert flags.split()[0] in line
    assert "invalid choice" in line


# ---- flags that contradict or need each other, one case per rule of src/checks/contradictions.py

CONTRADICTIONS = [
    (
        f"{ONE}--lora_merge_strategy linear --lora_merge_modules sums",
        ["--lora_merge_strategy needs two or more --lora_merge_modules"],
    ),
    (
        f"{ONE}--lora_merge_modules sums trans --stored_model_name sums --do_predict",
        ["--lora_merge_modules needs --lora_merge_strategy"],
    ),
    (
        f"{ONE}--lora_merge_weights 1 1 --stored_model_name sums --do_predict",
        [
            "--lora_merge_weights needs --lora_merge_strategy",
            f"{WEIGHTS}2 given for 0",
        ],
    ),
    (f"{ONE}{MERGED}--lora_merge_weights 1 1 1", [f"{WEIGHTS}3 given for 2"]),
    (
        f"{ONE}--lora_merge_strategy linear --lora_merge_modules sums sums",
        ["--lora_merge_modules names an adapter twice; use --lora_merge_weights to give it more weight"],
    ),
    (
        f"{ONE}{MERGED}--do_train --stored_model_name new",
        ["--do_train contradicts --lora_merge_strategy: train the adapters in runs of their own"],
    ),
    (f"{ONE}--zero_shot --do_train --stored_model_name new", ["--zero_shot contradicts --do_train"]),
    (f"{ONE}--zero_shot {MERGED}--do_predict", ["--zero_shot contradicts --lora_merge_strategy"]),
    (f"{COMPOSED}--zero_shot {MULTI}--do_predict", ["--zero_shot contradicts --multi_step_prompts"]),
    (f"{COMPOSED}{MERGED}{MULTI}--do_predict", ["--multi_step_prompts contradicts --lora_merge_strategy"]),
    (f"{COMPOSED}{MULTI}--do_train --do_predict", ["--multi_step_prompts contradicts --do_train"]),
    (f"{ONE}{MULTI}--do_predict", ["--multi_step_prompts needs --secondary_task and --secondary_task_dataset"]),
    (
        f"{COMPOSED}--multi_step_prompts --prompt_style empty --stored_model_name sums --do_predict",
        ["--multi_step_prompts needs --stored_model_name and --secondary_stored_model_name"],
    ),
    (
        f"{COMPOSED}--multi_step_prompts --stored_model_name sums --secondary_stored_model_name trans --do_predict",
        ["--multi_step_prompts asks for each task in a step of its own: add --prompt_style empty"],
    ),
    (
        f"{COMPOSED}--stored_model_name sums --secondary_stored_model_name trans --do_predict",
        ["--secondary_stored_model_name needs --multi_step_prompts or --auxiliary_lora"],
    ),
    (
        f"{ONE}--multi_task_train_targets --stored_model_name joint --do_train",
        ["--multi_task_train_targets needs --secondary_task and --secondary_task_dataset"],
    ),
    (f"{COMPOSED}--multi_task_train_targets {MERGED}", ["--multi_task_train_targets contradicts --lora_merge_strategy"]),
    (f"{COMPOSED}--multi_task_train_targets --zero_shot --do_predict", ["--multi_task_train_targets contradicts --zero_shot"]),
    (f"{COMPOSED}{LEARNED}", ["learnable_calibration needs --merge_datasets, a compositional data set to learn from"]),
    (
        f"{COMPOSED}{LEARNED}--merge_datasets pocket_dialogs_es pocket_dialogs_fr",
        [
            "--merge_datasets names 2 sets: --lora_merge_modules needs as many groups of two or more adapters, one after "
            "the other, 2 adapters were given"
        ],
    ),
    (
        f"{COMPOSED}--lora_merge_strategy linear {TWO_MERGES}--lora_merge_weights 1 1 1 1 "
        "--calibrate learnable_calibration --merge_datasets pocket_dialogs_es pocket_dialogs_fr",
        [f"{WEIGHTS}4 given for 2"],
    ),
    (
        f"{COMPOSED}--lora_merge_strategy lorahub {TWO_MERGES}--merge_datasets pocket_dialogs_es pocket_dialogs_fr",
        ["several --merge_datasets need --calibrate, whose calibration they share"],
    ),
    (
        f"{COMPOSED}{TWO_MERGES}--lora_merge_strategy learnable_calibration --merge_datasets pocket_dialogs_fr pocket_dialogs_de",
        ["--secondary_task_dataset pocket_dialogs_es is none of --merge_datasets: which of the merges should answer?"],
    ),
    (f"{COMPOSED}{MERGED}--merge_datasets pocket_dialogs_es", [NOTHING_LEARNS]),
    (
        f"{COMPOSED}--lora_merge_strategy dam_composed --lora_merge_modules sums trans",
        ["dam_composed needs --merge_datasets, a compositional data set to learn from"],
    ),
    (
        f"{COMPOSED}{LEARNED.replace('sums trans', 'sums trans sums other')}--merge_datasets pocket_dialogs_es pocket_dialogs_es",
        ["--merge_datasets names a data set twice"],
    ),
    (f"{COMPOSED}{MERGED}--calibration_modules q_proj", ["--calibration_modules needs --calibrate"]),
    (f"{COMPOSED}{MERGED}--calibration_layer_groups 2", ["--calibration_layer_groups needs --calibrate"]),
    (
        f"{COMPOSED}--stored_model_name sums --stored_calibration shared --do_predict",
        ["--stored_calibration needs --lora_merge_strategy", NO_SHARED],
    ),
    (
        f"{COMPOSED}{LEARNED}--merge_datasets pocket_dialogs_es --stored_calibration shared",
        ["--stored_calibration contradicts --calibrate: take a calibration, or learn one", NO_SHARED],
    ),
    (
        f"{COMPOSED}{MERGED}--stored_calibration e",
        [
            "--stored_calibration e is this experiment: name the one that has learned it",
            "there is no calibration e: {stored_models}/e/calibration.safetensors is missing",
        ],
    ),
    (f"{COMPOSED}{MERGED}--stored_calibration shared", [NO_SHARED]),
    (
        f"{COMPOSED}--auxiliary_lora --stored_model_name sums --do_predict",
        ["--auxiliary_lora needs --secondary_stored_model_name, the one adapter that answers"],
    ),
    (
        f"{COMPOSED}--auxiliary_lora --secondary_stored_model_name trans --zero_shot --do_predict",
        ["--auxiliary_lora contradicts --zero_shot"],
    ),
    (
        f"{COMPOSED}{MULTI.replace('trans', 'trans sums')}--do_predict",
        ["--secondary_stored_model_name: an adapter for each --secondary_task is needed"],
    ),
    (
        f"{COMPOSED}{MULTI}--in_context_examples 2 --do_predict",
        ["--in_context_examples contradicts --multi_step_prompts: solved examples show all tasks in one step"],
    ),
    (
        f"{ONE}--stored_model_name new --do_train --in_context_examples 2",
        ["--in_context_examples needs --do_valid or --do_predict"],
    ),
    (f"{COMPOSED}{MERGED}--for_each_component", ["--for_each_component needs --calibrate"]),
    (
        f"{COMPOSED}{MERGED}--calibrate learnable_calibration",
        ["learnable_calibration needs --merge_datasets, a compositional data set to learn from"],
    ),
    (
        f"{COMPOSED}--stored_model_name sums --calibrate learnable_calibration --merge_datasets pocket_dialogs_es --do_predict",
        ["--calibrate needs --lora_merge_strategy, the merge that is calibrated"],
    ),
    (
        f"{COMPOSED}{LEARNED}--calibrate learnable_calibration_pp --merge_datasets pocket_dialogs_es",
        ["--calibrate contradicts --lora_merge_strategy learnable_calibration, which calibrates already: name a merge"],
    ),
    (f"{ONE}--stored_model_name sums --lora_merge_options a=1 --do_predict", ["--lora_merge_options needs --lora_merge_strategy"]),
    (f"{ONE}{MERGED}--lora_merge_options density=0.5", ["--lora_merge_options density: linear has no such option: it has none"]),
    (f"{ONE}--lora_merge_modules sums trans --lora_merge_strategy no.py", ["--lora_merge_strategy no.py: there is no such file"]),
    (
        f"{ONE}--do_predict",
        ["predictions need an adapter: add --stored_model_name, --lora_merge_strategy, or --zero_shot for the base model alone"],
    ),
]


@pytest.mark.parametrize(("flags", "expected"), CONTRADICTIONS, ids=[expected[0] for _, expected in CONTRADICTIONS])
def test_flags_that_contradict_or_need_each_other_are_a_mistake(flags, expected, adapters):
    store(adapters, "other")
    stored_models = str(adapters.stored_model("any").parent)
    assert mistakes_in(flags, adapters) == [line.replace("{stored_models}", stored_models) for line in expected]


# ---- numbers and the Trainer's settings


def test_a_link_is_not_another_adapter(adapters):
    """A merge of an adapter with itself would have the weight of two."""
    folder = adapters.stored_model("sums")
    adapters.stored_model("also").symlink_to(folder)
    expected = (
        f"--lora_merge_modules: sums and also are one adapter ({folder.resolve()}): name it once, and use --lora_merge_weights "
        "to give it more weight"
    )
    assert mistakes_in(f"{COMPOSED}--lora_merge_strategy linear --lora_merge_modules sums also", adapters) == [expected]
    plan = plan_of(f"{COMPOSED}--lora_merge_strategy linear --lora_merge_modules also trans", adapters)
    assert [one.name for one in plan.read_adapters(0)] == ["also", "trans"]
