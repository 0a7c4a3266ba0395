"""Mistakes in a command: one line each, exit code 2, nothing written."""

from __future__ import annotations

import shlex
import subprocess
import sys

import pytest

from compositional.adapters.peft_folder import CONFIG_FILE, WEIGHTS_FILE
from compositional.core.errors import UserError
from compositional.core.workspace import Workspace
from compositional.experiment.arguments import parse_arguments
from compositional.experiment.plan import make_plan
from helpers import PROJECT
from helpers.planning import COMPOSED, LEARNED, MERGED, ONE, PATH, heavy_imports_of, mistakes_in, plan_of, store
from helpers.tiny_runs import ZERO_SHOT


def run_command(*words: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, str(PROJECT / "run_experiment.py"), *words], cwd=PROJECT, capture_output=True, text=True)


# ---- the real command


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_help_names_every_flag_and_ends_with_code_0():
    done = run_command("--help")
    assert done.returncode == 0
    assert {"--lora_merge_strategy", "--merge_datasets", "--workspace"} <= set(done.stdout.split())
    assert done.stderr == ""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "imported"),
    [
        ("--help", []),
        ("--experiment_name e --dataset dialogsumm --no_such_flag", []),
        # The library of safetensors reads an adapter's header with numpy, which costs a fifth of a second.
        (f"{COMPOSED}{MERGED}--do_predict --trainer no_such_setting=1", ["numpy"]),
        (f"{COMPOSED}--lora_merge_strategy linear --lora_merge_modules sums other --do_predict", ["numpy"]),
    ],
)
def test_neither_help_nor_a_usage_error_imports_a_heavy_library(flags, imported, adapters):
    store(adapters, "other", base="another/model")
    assert heavy_imports_of("run_experiment", [*shlex.split(flags), "--workspace", str(adapters.root)]) == imported


# ---- names


def test_an_unknown_flag_proposes_the_nearest(adapters):
    (line,) = mistakes_in(f"{ONE}--stored_model_name sums --do_predict --max_new_token 5", adapters)
    assert line.startswith("unknown flag --max_new_token: did you mean --max_new_tokens")


def test_a_flag_is_never_abbreviated(adapters):
    (line,) = mistakes_in(f"{ONE}--stored_model_name sums --do_predict --overw", adapters)
    assert line.startswith("unknown flag --overw: ")


def test_two_dashes_are_no_value(adapters):
    """argparse would make an empty list of them, which counts as a flag that is left out."""
    assert mistakes_in(f"{ONE}--stored_model_name sums --do_predict --raw_data_dir=--", adapters) == [
        "--raw_data_dir=--: -- is no value"
    ]


def test_words_that_belong_to_no_flag_are_a_mistake(adapters):
    assert mistakes_in(f"{ONE}--stored_model_name sums --do_predict true", adapters) == [
        "unexpected words, which belong to no flag: true"
    ]


@pytest.mark.parametrize("flag", ["--dataset", "--secondary_task_dataset", "--merge_datasets"])
def test_an_unknown_dataset_proposes_the_nearest(flag, adapters):
    learned_from = "" if flag == "--merge_datasets" else "--merge_datasets pocket_dialogs_es "
    flags = f"{COMPOSED}{LEARNED}{learned_from}--do_predict {flag} pocket_dialog_es"
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


@pytest.mark.parametrize("flag", ["experiment_name", "stored_model_name", "lora_merge_modules", "stored_calibration"])
@pytest.mark.parametrize("name", [" ", " a", "a ", "a b "])
def test_a_name_does_not_begin_or_end_with_a_blank(flag, name, adapters):
    flags = ["--experiment_name", "e", "--dataset", "pocket_dialogs", "--do_predict", f"--{flag}", name]
    with pytest.raises(UserError) as caught:
        make_plan(*parse_arguments([*flags, "--workspace", str(adapters.root)]))
    expected = f"--{flag} {name}: a name does not begin or end with a blank, this one is {name!r}"
    assert expected in caught.value.mistakes


def test_a_name_with_a_blank_in_it_is_a_name(run, judge, workspace, tiny_models):
    run(f"{ZERO_SHOT}--model_name_or_path {tiny_models['llama']} --do_predict --experiment_name 'my first run'")
    assert workspace.results("my first run").is_file()
    verdicts = judge("--experiment_name 'my first run' --judge_model_name_or_path pocket")
    assert verdicts["my first run"]["stages"]["test"]["counts"]["judged"] == 6


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


def test_a_file_of_flags_that_the_package_has_is_found_from_any_folder(adapters, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert plan_of(f"@configs/pocket.txt {ONE}--stored_model_name sums --do_predict", adapters).arguments.lora_rank == 8
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "pocket.txt").write_text("--lora_rank 3")
    assert plan_of(f"@configs/pocket.txt {ONE}--stored_model_name sums --do_predict", adapters).arguments.lora_rank == 3
    (line,) = mistakes_in("@configs/absent.txt --do_predict", adapters)
    assert line == "@configs/absent.txt: No such file or directory"


SAME_BASE = "name adapters of one base model, or add --ignore_recorded_base_model where both names mean the same weights"


def test_adapters_of_different_base_models_are_a_mistake(adapters):
    store(adapters, "other", base="another/model")
    lines = mistakes_in(f"{ONE}--lora_merge_strategy linear --lora_merge_modules sums other --do_predict", adapters)
    assert lines == [f"adapter other was trained on another/model, not on pocket: {SAME_BASE}"]


def test_an_adapter_of_another_model_than_the_named_one_is_a_mistake(adapters):
    lines = mistakes_in(f"{ONE}--stored_model_name sums --do_predict --model_name_or_path another/model", adapters)
    assert lines == [f"adapter sums was trained on pocket, not on another/model: {SAME_BASE}"]


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
