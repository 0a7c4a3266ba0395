"""Values that flags may take."""

from __future__ import annotations

import pytest

from helpers.planning import MERGED, ONE, mistakes_in, plan_of


@pytest.mark.parametrize(
    "flag",
    [
        *("num_examples_merge", "calibration_rank", "lora_rank", "lora_alpha", "batch_size", "gradient_accumulation_steps"),
        *("max_train_examples", "max_valid_examples", "max_test_examples", "max_length", "max_prompt_length", "max_new_tokens"),
        *("device_batch_size", "device_batch_tokens", "prediction_batch_size", "save_steps", "bootstrap_resamples"),
    ],
)
@pytest.mark.parametrize("value", [0, -3])
def test_counts_are_at_least_one(flag, value, adapters):
    assert mistakes_in(f"{ONE}--stored_model_name sums --do_predict --{flag} {value}", adapters) == [
        f"--{flag} {value}: must be at least 1"
    ]


@pytest.mark.parametrize("flag", ["learning_rate", "calibration_learning_rate", "calibration_epochs", "num_train_epochs"])
@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf"])
def test_rates_and_epochs_are_above_zero_and_finite(flag, value, adapters):
    (line,) = mistakes_in(f"{ONE}--stored_model_name sums --do_predict --{flag} {value}", adapters)
    assert line.startswith(f"--{flag} ")


@pytest.mark.parametrize(
    "flags",
    [
        *("--lora_dropout 1", "--lora_dropout -0.1", "--lora_dropout nan", "--warmup_steps -1", "--report_to tensorbord"),
        *("--seed -1", "--seed 4294967296"),
    ],
)
def test_other_values_out_of_range_are_a_mistake(flags, adapters):
    (line,) = mistakes_in(f"{ONE}--stored_model_name sums --do_predict {flags}", adapters)
    assert line.startswith(flags.split()[0])


@pytest.mark.parametrize("weights", ["nan 1", "inf 1"])
def test_merge_weights_are_finite(weights, adapters):
    (line,) = mistakes_in(f"{ONE}{MERGED}--do_predict --lora_merge_weights {weights}", adapters)
    assert line.startswith("--lora_merge_weights")


@pytest.mark.parametrize("weights", ["1 -0.5", "1 -.5", "1 -5e-1"])
def test_merge_weights_may_be_negative(weights, adapters):
    plan = plan_of(f"{ONE}{MERGED}--do_predict --lora_merge_weights {weights}", adapters)
    assert plan.arguments.lora_merge_weights == [1, -0.5]


@pytest.mark.parametrize(
    ("pair", "expected"),
    [
        ("weight_decai=0.1", "--trainer weight_decai: TrainingArguments has no such setting; did you mean weight_decay?"),
        ("weight_decay", "--trainer weight_decay: expected KEY=VALUE"),
        ("learning_rate=1", "--trainer learning_rate: use --learning_rate"),
        ("per_device_train_batch_size=1", "--trainer per_device_train_batch_size: use --batch_size or --device_batch_size"),
        ("seed=1", "--trainer seed: use --seed"),
        ("data_seed=1", "--trainer data_seed: use --data_seed"),
        ("output_dir=x", "--trainer output_dir: use --workspace"),
    ],
)
def test_trainer_settings_that_are_unknown_or_have_a_flag_are_a_mistake(pair, expected, adapters):
    assert mistakes_in(f"{ONE}--stored_model_name sums --do_predict --trainer {pair}", adapters) == [expected]


def test_trainer_settings_get_the_type_of_their_value(workspace):
    flags = f"{ONE}--stored_model_name new --do_train --trainer weight_decay=0.1 max_steps=3 optim=sgd tf32=False"
    assert plan_of(flags, workspace).trainer_options == {
        "weight_decay": 0.1,
        "max_steps": 3,
        "optim": "sgd",
        "tf32": False,
    }


@pytest.mark.parametrize("pair", ["max_grad_norm=x", "neftune_noise_alpha=x", "max_steps=abc", "logging_first_step=3"])
def test_trainer_values_of_another_type_are_a_mistake(pair, adapters):
    (line,) = mistakes_in(f"{ONE}--stored_model_name new --do_train --trainer {pair}", adapters)
    assert line.startswith(f"--trainer {pair}: the value must be ")
