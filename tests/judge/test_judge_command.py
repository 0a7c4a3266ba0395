"""Mistakes in a command line of the judge."""

from __future__ import annotations

import shlex
import subprocess
import sys

import pytest

from helpers import PROJECT
from helpers.judging import RULE, SIX, SIX_VERDICTS, files_in, partial_of, store_predictions, verdicts
from helpers.planning import heavy_imports_of


def run_command(*words: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, str(PROJECT / "llm_judge_eval.py"), *words], cwd=PROJECT, capture_output=True, text=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "beginnings"),
    [
        (RULE, ["--experiment_name is missing"]),
        (f"{RULE}--experiment_name sum_tr --batch_size many", ["argument --batch_size: invalid int value: 'many'"]),
        (
            "--experiment_name sum_tr sum_tr_ess --stage valid --batchsize 3 --judge_model_name_or_path ./none --seed -1",
            [
                "unknown flag --batchsize: did you mean --batch_size",
                "--seed -1: must be at least 0",
                "--judge_model_name_or_path ./none: there is no such folder",
                "experiment sum_tr has no predictions in",
                "experiment sum_tr_ess has no predictions in",
            ],
        ),
    ],
)
def test_mistakes_end_with_code_2_and_one_line_each_and_leave_nothing_behind(flags, beginnings, workspace):
    store_predictions(workspace, "sum_tr_es", SIX)
    before = files_in(workspace)
    done = run_command(*shlex.split(flags), "--workspace", str(workspace.root))
    assert done.returncode == 2
    lines = done.stderr.splitlines()
    assert len(lines) == len(beginnings), lines
    for line, beginning in zip(lines, beginnings, strict=True):
        assert line.startswith(f"error: {beginning}")
    assert done.stdout == ""
    assert files_in(workspace) == before


@pytest.mark.slow(4)
def test_the_command_judges_shows_the_share_and_ends_with_code_0(workspace):
    store_predictions(workspace, "e", SIX)
    done = run_command(*shlex.split(f"{RULE}--experiment_name e"), "--workspace", str(workspace.root))
    assert done.returncode == 0, done.stderr
    assert "e, test, 5 of 6 examples judged: yes 60.0 [13.1, 93.7] %" in done.stderr.splitlines()
    assert [row["verdict"] for row in verdicts(workspace, "e")] == SIX_VERDICTS


@pytest.mark.slow
def test_help_names_the_flags_and_ends_with_code_0():
    done = run_command("--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert {"--experiment_name", "--stage", "--judge_url", "--judge_model_name_or_path", "--batch_size"} <= set(done.stdout.split())


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags",
    [
        "--help",
        "",
        "--experiment_name e --no_such_flag",
        "--experiment_name f --judge_url http://localhost:1/v1 --judge_model_name_or_path m",
        f"{RULE}--experiment_name real",
    ],
)
def test_neither_help_nor_a_usage_error_imports_a_heavy_library(flags, workspace):
    store_predictions(workspace, "e", SIX)
    store_predictions(workspace, "real", SIX, dataset="dialogsum", secondary=None)
    assert heavy_imports_of("llm_judge_eval", [*shlex.split(flags), "--workspace", str(workspace.root)]) == []


def test_an_unknown_experiment_proposes_the_nearest(workspace, mistakes):
    store_predictions(workspace, "sum_tr_es_linear_merge", SIX)
    folder = workspace.root / "predictions"
    assert mistakes(f"{RULE}--experiment_name sum_tr_es_liner_merge") == [
        f"experiment sum_tr_es_liner_merge has no predictions in {folder}: did you mean sum_tr_es_linear_merge?"
    ]


def test_without_any_predictions_the_command_that_makes_them_is_named(workspace, mistakes):
    (line,) = mistakes(f"{RULE}--experiment_name e")
    assert line == f"experiment e has no predictions in {workspace.root / 'predictions'}: run_experiment.py makes them"
    assert not workspace.root.exists()


@pytest.mark.parametrize(("stage", "other", "flag"), [("test", "valid", "--do_predict"), ("valid", "test", "--do_valid")])
def test_an_experiment_without_predictions_of_the_stage_is_told_the_flag(stage, other, flag, workspace, mistakes):
    path = store_predictions(workspace, "e", SIX, stage=other)
    partial_of(workspace.predictions("e", stage)).write_bytes(path.read_bytes())
    (line,) = mistakes(f"{RULE}--experiment_name e --stage {stage}")
    assert line == f"experiment e has no (whole) {stage} predictions: run it with {flag}"


def test_experiments_without_predictions_are_left_out_if_asked_and_named_at_the_end(workspace, mistakes):
    store_predictions(workspace, "e", SIX)
    store_predictions(workspace, "validated", SIX, stage="valid")
    lines = mistakes(f"{RULE}--experiment_name none e validated --skip_missing")
    assert lines == [
        f"experiment none has no predictions in {workspace.root / 'predictions'}: known: e, validated",
        "experiment validated has no (whole) test predictions: run it with --do_predict",
    ]
    assert [row["verdict"] for row in verdicts(workspace, "e")] == SIX_VERDICTS


@pytest.mark.parametrize(
    ("flags", "lines"),
    [
        ("--experiment_name e f", ["experiment f has no predictions"]),
        ("--experiment_name f --skip_missing", ["experiment f has no predictions"]),
        ("--experiment_name e f a/b --skip_missing", ["--experiment_name a/b: ", "experiment f has no predictions"]),
    ],
)
def test_nothing_is_judged_of_a_call_that_has_other_mistakes_or_nothing_to_judge(flags, lines, workspace, mistakes):
    store_predictions(workspace, "e", SIX)
    before = files_in(workspace)
    found = mistakes(f"{RULE}{flags}")
    assert [line.startswith(beginning) for line, beginning in zip(found, lines, strict=True)] == [True] * len(lines)
    assert files_in(workspace) == before


@pytest.mark.parametrize(
    ("flag", "nearest"),
    [("--experiment_names", "--experiment_name"), ("--judge_model", "--judge_model_name_or_path"), ("--overw", "--overwrite")],
)
def test_an_unknown_flag_proposes_the_nearest_and_none_is_abbreviated(flag, nearest, workspace, mistakes):
    store_predictions(workspace, "e", SIX)
    (line,) = mistakes(f"{RULE}--experiment_name e {flag}")
    assert line.startswith(f"unknown flag {flag}: ")
    assert nearest in line.split(": ", 1)[1].rstrip("?").split()


def test_words_that_belong_to_no_flag_are_a_mistake(workspace, mistakes):
    store_predictions(workspace, "e", SIX)
    assert mistakes(f"{RULE}--experiment_name e --overwrite true") == ["unexpected words, which belong to no flag: true"]


@pytest.mark.parametrize(("dataset", "secondary"), [("dialogsum", None), ("dialogsum", "dialogsum_es")])
def test_pockets_judge_knows_no_other_sets(dataset, secondary, workspace, mistakes):
    store_predictions(workspace, "e", SIX, dataset=dataset, secondary=secondary)
    (line,) = mistakes(f"{RULE}--experiment_name e")
    assert line == f"experiment e: the judge pocket knows Pocket's sets only, not {secondary or dataset}; name a judge model"


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (
            f"{RULE}--judge_url http://localhost:8000/v1",
            "--judge_url contradicts --judge_model_name_or_path pocket, which is no model",
        ),
        ("--judge_url localhost:8000/v1", "--judge_url localhost:8000/v1: expected a URL such as http://localhost:8000/v1"),
        ("--judge_url ftp://localhost/v1", "--judge_url ftp://localhost/v1: expected a URL such as http://localhost:8000/v1"),
        ("--judge_url http://", "--judge_url http://: expected a URL such as http://localhost:8000/v1"),
        ("--judge_model_name_or_path /no/such", "--judge_model_name_or_path /no/such: there is no such folder"),
        ("--judge_model_name_or_path ./none", "--judge_model_name_or_path ./none: there is no such folder"),
        (f"{RULE}--batch_size 0", "--batch_size 0: must be at least 1"),
        ("--max_model_len 0", "--max_model_len 0: must be at least 1"),
        (f"{RULE}--bootstrap_resamples 0", "--bootstrap_resamples 0: must be at least 1"),
        ("--tensor_parallel_size 0", "--tensor_parallel_size 0: must be at least 1"),
        ("--gpu_memory_utilization 1.5", "--gpu_memory_utilization 1.5: must be above 0 and at most 1"),
        ("--gpu_memory_utilization nan", "--gpu_memory_utilization nan: must be finite"),
        (f"{RULE}--seed 4294967296", "--seed 4294967296: must be at least 0 and below 2^32"),
    ],
)
def test_a_value_that_cannot_be_is_one_line_and_leaves_nothing_behind(flags, line, workspace, mistakes):
    store_predictions(workspace, "e", SIX)
    before = files_in(workspace)
    assert mistakes(f"--experiment_name e {flags}") == [line]
    assert files_in(workspace) == before


FOR_VLLM = ("gpu_memory_utilization 0.5", "tensor_parallel_size 2")


@pytest.mark.parametrize("flag", ["judge_backend llama_cpp", "judge_dtype float32", "max_model_len 4096", *FOR_VLLM])
def test_a_flag_for_a_model_here_is_a_mistake_where_none_runs(flag, workspace, mistakes):
    store_predictions(workspace, "e", SIX)
    (line,) = mistakes(f"{RULE}--experiment_name e --{flag}")
    assert line.startswith(f"--{flag.split()[0]} is for a model that runs here")
    (line,) = mistakes(f"--experiment_name e --judge_model_name_or_path m --judge_url http://localhost:1/v1 --{flag}")
    assert line.startswith(f"--{flag.split()[0]} is for a model that runs here")


@pytest.mark.parametrize("flag", FOR_VLLM)
def test_a_flag_for_vllm_is_a_mistake_where_another_library_runs(flag, workspace, mistakes):
    store_predictions(workspace, "e", SIX)
    (line,) = mistakes(f"--experiment_name e --judge_model_name_or_path org/m --judge_backend llama_cpp --{flag}")
    assert line == f"--{flag.split()[0]} is for vLLM: it means nothing to --judge_backend llama_cpp"


def test_a_precision_of_llama_cpp_is_a_mistake_for_vllm(workspace, mistakes):
    store_predictions(workspace, "e", SIX)
    (line,) = mistakes("--experiment_name e --judge_model_name_or_path org/m --judge_dtype q8_0")
    assert line == "--judge_dtype q8_0 needs --judge_backend llama_cpp"


def test_a_judge_folder_without_a_model_is_a_mistake(workspace, mistakes, tmp_path):
    store_predictions(workspace, "e", SIX)
    (tmp_path / "model").mkdir()
    (line,) = mistakes(f"--experiment_name e --judge_model_name_or_path {tmp_path / 'model'}")
    assert line == f"--judge_model_name_or_path {tmp_path / 'model'}: the folder has no config.json, so it holds no model"


def test_all_mistakes_of_a_command_are_reported_together(workspace, mistakes):
    store_predictions(workspace, "summaries", SIX)
    store_predictions(workspace, "real", SIX, dataset="dialogsum", secondary=None)
    store_predictions(workspace, "valid_only", SIX, stage="valid")
    lines = mistakes(
        "--experiment_name summaries summarise real valid_only --judge_model_name_or_path pocket --judge_url nowhere "
        "--batch_size 0 --max_model_len -1 --seed -1 --overwrit"
    )
    beginnings = (
        *("unknown flag --overwrit: did you mean --overwrite", "--batch_size 0", "--max_model_len -1", "--seed -1"),
        *("--judge_url nowhere: expected", "--judge_url contradicts", "experiment summarise has no predictions"),
        *(
            "--max_model_len is for a model that runs here",
            "experiment real: the judge pocket",
            "experiment valid_only has no (whole) test predictions",
        ),
    )
    for beginning in beginnings:
        assert sum(line.startswith(beginning) for line in lines) == 1, beginning
    assert len(lines) == len(beginnings)


@pytest.mark.parametrize("name", ["e/", "./e", "../predictions/e", "..", "''"])
def test_a_path_is_no_experiment_name(name, workspace, mistakes):
    store_predictions(workspace, "e", SIX)
    bare = name.strip("'")
    reason = "a name is needed, not a path" if bare else "a name is needed"
    assert mistakes(f"{RULE}--experiment_name {name}") == [f"--experiment_name {bare}: {reason}"]


@pytest.mark.parametrize("url", ["http://localhost:80a/v1", "http://[::1/v1", "http://localhost:99999/v1"])
def test_a_url_that_no_client_can_read_is_a_mistake(url, workspace, mistakes):
    store_predictions(workspace, "e", SIX)
    (line,) = mistakes(f"--experiment_name e --judge_model_name_or_path m --judge_url {url}")
    assert line.startswith(f"--judge_url {url}: ")
