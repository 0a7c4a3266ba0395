"""A user's mistakes: one line each, all at once, before anything heavy is imported and before anything is written."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from src.adapters.lora import LoraAdapter, LoraFactors
from src.adapters.peft_folder import CONFIG_FILE, WEIGHTS_FILE, write_adapter
from src.arguments import parse_arguments
from src.errors import UserError
from src.methods import CALIBRATION, JOINT_EXPERT, LORA, MERGE, MULTI_STEP, ZERO_SHOT
from src.plan import Plan, make_plan
from src.workspace import Workspace

PROJECT = Path(__file__).parents[1]
STABLELM = "stabilityai/stablelm-2-1_6b-chat"
PATH = "model.layers.0.self_attn.q_proj"

WEIGHTS = "--lora_merge_weights: as many weights as adapters are needed, "
ONE = "--experiment_name e --dataset pocket_dialogs "
COMPOSED = f"{ONE}--secondary_task translation --tgt_lang es --secondary_task_dataset pocket_dialogs_es "
MERGED = "--lora_merge_strategy linear --lora_merge_modules sums trans "
LEARNED = "--lora_merge_strategy learnable_calibration --lora_merge_modules sums trans "
MULTI = "--multi_step_prompts --stored_model_name sums --secondary_stored_model_name trans --prompt_style empty "

PAPER_COMPOSED = "--tgt_lang es --secondary_task translation --secondary_task_dataset dialogsum_es --dataset dialogsum "
PAPER_MAIN = (
    "--experiment_name sum_tr_es_main_lora_slm_v1 --tgt_lang es --secondary_task_dataset dialogsum_es --dataset dialogsum "
    "--stored_model_name dialogsum_lora_slm_v1 --secondary_task translation --do_valid --do_predict "
)
PAPER_ADAPTERS = "--lora_merge_modules dialogsum_lora_slm_v1 tedtalks_es_lora_slm_v1 "


def plan_of(flags: str, workspace: Workspace) -> Plan:
    return make_plan(*parse_arguments([*shlex.split(flags), "--workspace", str(workspace.root)]))


def mistakes_in(flags: str, workspace: Workspace) -> list[str]:
    with pytest.raises(UserError) as caught:
        plan_of(flags, workspace)
    return list(caught.value.mistakes)


def store(workspace: Workspace, name: str, base: str = "pocket", d_in: int = 6) -> Path:
    """A stored adapter of one small module."""
    factors = {PATH: LoraFactors(torch.ones(2, d_in), torch.ones(5, 2), 1.0)}
    write_adapter(workspace.stored_model(name), LoraAdapter(name, base, factors), "float16")
    return workspace.stored_model(name)


@pytest.fixture
def adapters(workspace) -> Workspace:
    """A workspace with the stored adapters sums and trans, of Pocket's base model."""
    for name in ("sums", "trans"):
        store(workspace, name)
    return workspace


@pytest.fixture
def paper_adapters(workspace) -> Workspace:
    """A workspace with the paper's two single-task adapters."""
    for name in ("dialogsum_lora_slm_v1", "tedtalks_es_lora_slm_v1"):
        store(workspace, name, STABLELM)
    return workspace


def run_command(*words: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, str(PROJECT / "run_experiment.py"), *words], cwd=PROJECT, capture_output=True, text=True)


# ---- the real command


@pytest.mark.parametrize(
    ("flags", "beginnings"),
    [
        ("", ["--experiment_name is missing", "--dataset is missing", "there is nothing to do"]),
        (
            "--experiment_name e --dataset dialogsumm --do_predcit --zero_shot --batch_size 0 --do_valid "
            "--model_name_or_path ./none",
            [
                "unknown flag --do_predcit: did you mean --do_predict",
                "--batch_size 0: must be at least 1",
                "unknown dataset 'dialogsumm': did you mean dialogsum",
                "--model_name_or_path ./none: there is no such folder",
            ],
        ),
        (f"{ONE}--do_valid --max_length many", ["argument --max_length: invalid int value: 'many'"]),
        (f"{ONE}--do_valid --stored_model_name absent", ["there is no adapter absent in"]),
    ],
)
def test_mistakes_end_with_code_2_and_one_line_each_and_leave_nothing_behind(flags, beginnings, workspace):
    done = run_command(*shlex.split(flags), "--workspace", str(workspace.root))
    assert done.returncode == 2
    lines = done.stderr.splitlines()
    assert len(lines) == len(beginnings), lines
    for line, beginning in zip(lines, beginnings, strict=True):
        assert line.startswith(f"error: {beginning}")
    assert done.stdout == ""
    assert not workspace.root.exists()


def test_missing_data_is_an_error_line_before_anything_is_written(workspace, tmp_path):
    raw = tmp_path / "raw"
    raw.mkdir()
    flags = "--experiment_name e --dataset dialogsum --zero_shot --model_name_or_path pocket --do_valid --do_predict"
    done = run_command(*flags.split(), "--raw_data_dir", str(raw), "--workspace", str(workspace.root))
    assert done.returncode == 2
    assert [line.split(" is missing")[0] for line in done.stderr.splitlines()] == [
        f"error: {raw / 'dialogsum.dev.jsonl'}",
        f"error: {raw / 'dialogsum.test.jsonl'}",
    ]
    assert not workspace.root.exists()


def test_help_names_every_flag_and_ends_with_code_0():
    done = run_command("--help")
    assert done.returncode == 0
    assert {"--lora_merge_strategy", "--merge_datasets", "--workspace"} <= set(done.stdout.split())
    assert done.stderr == ""


@pytest.mark.parametrize(
    "flags",
    [
        "--help",
        "--experiment_name e --dataset dialogsumm --no_such_flag",
        f"{COMPOSED}{MERGED}--do_predict --trainer no_such_setting=1",
        f"{COMPOSED}--lora_merge_strategy linear --lora_merge_modules sums other --do_predict",
    ],
)
def test_neither_help_nor_a_usage_error_imports_a_heavy_library(flags, adapters):
    store(adapters, "other", base="another/model")
    script = (
        "import sys, run_experiment\n"
        "from src.errors import UserError\n"
        "try:\n    run_experiment.run(sys.argv[1:])\n    sys.exit('it ran')\n"
        "except UserError:\n    pass\nexcept SystemExit as error:\n    assert error.code == 0, error.code\n"
        "print(*sorted({'torch', 'transformers', 'datasets', 'peft', 'evaluate', 'numpy'} & set(sys.modules)), file=sys.stderr)"
    )
    words = [sys.executable, "-c", script, *shlex.split(flags), "--workspace", str(adapters.root)]
    done = subprocess.run(words, cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.split() == []


# ---- names


def test_an_unknown_flag_proposes_the_nearest(adapters):
    (line,) = mistakes_in(f"{ONE}--stored_model_name sums --do_predict --max_new_token 5", adapters)
    assert line.startswith("unknown flag --max_new_token: did you mean --max_new_tokens")


def test_a_flag_is_never_abbreviated(adapters):
    (line,) = mistakes_in(f"{ONE}--stored_model_name sums --do_predict --overw", adapters)
    assert line.startswith("unknown flag --overw: ")


def test_words_that_belong_to_no_flag_are_a_mistake(adapters):
    assert mistakes_in(f"{ONE}--stored_model_name sums --do_predict true", adapters) == [
        "unexpected words, which belong to no flag: true"
    ]


@pytest.mark.parametrize("flag", ["--dataset", "--secondary_task_dataset", "--merge_datasets"])
def test_an_unknown_dataset_proposes_the_nearest(flag, adapters):
    flags = f"{COMPOSED}{LEARNED}--merge_datasets pocket_dialogs_es --do_predict {flag} pocket_dialog_es"
    (line,) = mistakes_in(flags, adapters)
    assert line.startswith("unknown dataset 'pocket_dialog_es': did you mean pocket_dialogs_es")


def test_an_unknown_strategy_proposes_the_nearest(adapters):
    flags = f"{ONE}--lora_merge_modules sums trans --do_predict --lora_merge_strategy "
    (line,) = mistakes_in(f"{flags}peft_liner", adapters)
    assert line.startswith("unknown merge strategy 'peft_liner': did you mean peft_linear")
    (line,) = mistakes_in(f"{flags}learnable_calibration_p", adapters)
    assert line.startswith("unknown merge strategy 'learnable_calibration_p': did you mean learnable_calibration")


def test_a_missing_adapter_proposes_the_nearest_or_training_it(adapters, tmp_path):
    (line,) = mistakes_in(f"{ONE}--stored_model_name sum --do_predict", adapters)
    assert line == f"there is no adapter sum in {adapters.root / 'stored_models'}: did you mean sums?"
    (line,) = mistakes_in(f"{ONE}--stored_model_name sum --do_predict", Workspace(tmp_path / "empty"))
    assert line == f"there is no adapter sum in {tmp_path / 'empty' / 'stored_models'}: train it first, with --do_train"


@pytest.mark.parametrize("flag", ["experiment_name", "stored_model_name", "secondary_stored_model_name"])
@pytest.mark.parametrize("name", ["a/b", "..", ".hidden", "a\\b"])
def test_a_path_is_no_name(flag, name, adapters):
    flags = ["--experiment_name", "e", "--dataset", "pocket_dialogs", "--do_predict", f"--{flag}", name]
    with pytest.raises(UserError) as caught:
        make_plan(*parse_arguments([*flags, "--workspace", str(adapters.root)]))
    assert f"--{flag} {name}: a name is needed, not a path" in caught.value.mistakes


def test_training_needs_a_name_to_store_the_adapter_by(workspace):
    assert mistakes_in(f"{ONE}--do_train", workspace) == ["--do_train needs --stored_model_name, the name to store the adapter by"]


def test_a_command_that_asks_for_nothing_is_a_mistake(adapters):
    assert mistakes_in(f"{ONE}--stored_model_name sums", adapters) == [
        "there is nothing to do: add --do_train, --do_valid or --do_predict"
    ]


# ---- folders, files and models


@pytest.mark.parametrize("model", ["./no_such_model", "/no/such/model", "no/such/model"])
def test_a_model_folder_that_does_not_exist_is_a_mistake(model, workspace):
    assert mistakes_in(f"{ONE}--zero_shot --do_predict --model_name_or_path {model}", workspace) == [
        f"--model_name_or_path {model}: there is no such folder"
    ]


def test_a_folder_without_a_model_is_a_mistake(workspace, tmp_path):
    (line,) = mistakes_in(f"{ONE}--zero_shot --do_predict --model_name_or_path {tmp_path}", workspace)
    assert line == f"--model_name_or_path {tmp_path}: the folder has no config.json, so it holds no model"


def test_a_base_model_must_be_named_where_nothing_else_says_it(workspace):
    assert mistakes_in("--experiment_name e --dataset dialogsum --zero_shot --do_predict", workspace) == [
        "--model_name_or_path is missing: a hub id, a folder, or pocket"
    ]


def test_a_raw_data_folder_that_does_not_exist_is_a_mistake(adapters):
    assert mistakes_in(f"{ONE}--stored_model_name sums --do_predict --raw_data_dir /no/such", adapters) == [
        "--raw_data_dir /no/such: there is no such folder"
    ]


def test_a_file_of_flags_is_read_with_comments_and_a_missing_one_is_a_mistake(adapters, tmp_path):
    file = tmp_path / "flags.txt"
    file.write_text("# settings\n--experiment_name e --dataset pocket_dialogs\n--max_new_tokens 7 # short\n\n", encoding="utf-8")
    plan = plan_of(f"@{file} --stored_model_name sums --do_predict", adapters)
    assert (plan.arguments.max_new_tokens, plan.main_set.name) == (7, "pocket_dialogs")
    (line,) = mistakes_in(f"@{tmp_path / 'absent.txt'} --do_predict", adapters)
    assert "absent.txt" in line


def test_adapters_of_different_base_models_are_a_mistake(adapters):
    store(adapters, "other", base="another/model")
    lines = mistakes_in(f"{ONE}--lora_merge_strategy linear --lora_merge_modules sums other --do_predict", adapters)
    assert lines == ["adapter other was trained on another/model, not on pocket: name adapters of one base model"]


def test_an_adapter_of_another_model_than_the_named_one_is_a_mistake(adapters):
    lines = mistakes_in(f"{ONE}--stored_model_name sums --do_predict --model_name_or_path another/model", adapters)
    assert lines == ["adapter sums was trained on pocket, not on another/model: name adapters of one base model"]


def test_adapters_of_other_shapes_are_a_mistake(adapters):
    store(adapters, "wide", d_in=7)
    assert mistakes_in(f"{ONE}--lora_merge_strategy linear --lora_merge_modules sums wide --do_predict", adapters) == [
        f"adapters sums and wide do not fit together: {PATH} is 5 × 6 in one, 5 × 7 in the other"
    ]


def test_a_folder_that_holds_no_adapter_is_a_mistake(adapters):
    (adapters.stored_model("sums") / WEIGHTS_FILE).unlink()
    (line,) = mistakes_in(f"{ONE}--stored_model_name sums --do_predict", adapters)
    assert line.startswith(f"{adapters.stored_model('sums')} holds no adapter")


@pytest.mark.parametrize("content", ["{", "[]", '{"peft_type": "LORA", "base_model_name_or_path": "pocket"}'])
def test_a_broken_adapter_configuration_is_a_mistake_that_names_the_file(content, adapters):
    file = adapters.stored_model("sums") / CONFIG_FILE
    file.write_text(content, encoding="utf-8")
    (line,) = mistakes_in(f"{ONE}--stored_model_name sums --do_predict", adapters)
    assert str(file) in line


def test_a_cut_off_adapter_file_is_a_mistake_that_names_it(adapters):
    file = adapters.stored_model("trans") / WEIGHTS_FILE
    file.write_bytes(file.read_bytes()[:40])
    (line,) = mistakes_in(f"{ONE}{MERGED}--do_predict", adapters)
    assert str(file) in line


def test_a_broken_adapter_of_a_zero_shot_command_does_not_hide_other_mistakes(adapters):
    (adapters.stored_model("sums") / CONFIG_FILE).write_text("{", encoding="utf-8")
    lines = mistakes_in(f"{ONE}--zero_shot --stored_model_name sums --do_predict --max_new_tokens 0", adapters)
    assert "--max_new_tokens 0: must be at least 1" in lines
    assert any(CONFIG_FILE in line for line in lines)


# ---- data sets and tasks


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


# ---- flags that contradict or need each other, one case per rule of src/contradictions.py

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
        ["--secondary_stored_model_name needs --multi_step_prompts"],
    ),
    (
        f"{ONE}--multi_task_train_targets --stored_model_name joint --do_train",
        ["--multi_task_train_targets needs --secondary_task and --secondary_task_dataset"],
    ),
    (f"{COMPOSED}--multi_task_train_targets {MERGED}", ["--multi_task_train_targets contradicts --lora_merge_strategy"]),
    (f"{COMPOSED}--multi_task_train_targets --zero_shot --do_predict", ["--multi_task_train_targets contradicts --zero_shot"]),
    (f"{COMPOSED}{LEARNED}", ["learnable_calibration needs --merge_datasets, a compositional data set to learn from"]),
    (f"{COMPOSED}{LEARNED}--merge_datasets pocket_dialogs_es pocket_dialogs_fr", ["--merge_datasets takes one data set"]),
    (f"{COMPOSED}{MERGED}--merge_datasets pocket_dialogs_es", ["--merge_datasets needs a --lora_merge_strategy that learns"]),
    (f"{COMPOSED}{MERGED}--for_each_component", ["--for_each_component needs a learnable_calibration strategy"]),
    (
        f"{ONE}--do_predict",
        ["predictions need an adapter: add --stored_model_name, --lora_merge_strategy, or --zero_shot for the base model alone"],
    ),
]


@pytest.mark.parametrize(("flags", "expected"), CONTRADICTIONS, ids=[expected[0] for _, expected in CONTRADICTIONS])
def test_flags_that_contradict_or_need_each_other_are_a_mistake(flags, expected, adapters):
    assert mistakes_in(flags, adapters) == expected


# ---- numbers and the Trainer's settings


@pytest.mark.parametrize(
    "flag",
    [
        *("num_examples_merge", "calibration_rank", "lora_rank", "lora_alpha", "batch_size", "gradient_accumulation_steps"),
        *("max_train_examples", "max_valid_examples", "max_test_examples", "max_length", "max_prompt_length", "max_new_tokens"),
        *("device_batch_size", "prediction_batch_size", "save_steps", "bootstrap_resamples"),
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
    flags = f"{ONE}--stored_model_name new --do_train --trainer weight_decay=0.1 max_steps=3 optim=sgd torch_compile=False"
    assert plan_of(flags, workspace).trainer_options == {
        "weight_decay": 0.1,
        "max_steps": 3,
        "optim": "sgd",
        "torch_compile": False,
    }


def test_all_mistakes_of_a_command_are_reported_together(adapters):
    lines = mistakes_in(
        "--experiment_name a/b --dataset dialogsumm --secondary_task translation --secondary_task_dataset pocket_dialogs_e "
        "--lora_merge_strategy lineer --lora_merge_modules sums absent --lora_merge_weights 1 --max_length 0 --lora_dropout 2 "
        "--trainer seed=1 nonsense=2 --raw_data_dir /no/such --no_such_flag --zero_shot --do_predict",
        adapters,
    )
    beginnings = (
        *("unknown flag --no_such_flag", "--experiment_name a/b", "unknown dataset 'dialogsumm'"),
        *("unknown dataset 'pocket_dialogs_e'", "--secondary_task translation needs --tgt_lang", "unknown merge strategy 'lineer'"),
        *("there is no adapter absent", "--lora_merge_weights: as many", "--max_length 0", "--lora_dropout 2", "--trainer seed"),
        *("--trainer nonsense", "--raw_data_dir /no/such", "--zero_shot contradicts --lora_merge_strategy"),
    )
    for beginning in beginnings:
        assert sum(line.startswith(beginning) for line in lines) == 1, beginning
    assert len(lines) == len(beginnings)


# ---- the paper's commands


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
    assert (plan.method, plan.adapters, plan.written_adapter) == (method, adapters_read, written)
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
