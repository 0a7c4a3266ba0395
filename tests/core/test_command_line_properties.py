"""Any command line of known flags ends in a plan or in lines that say what is wrong, and a refused one has written nothing."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import typing
from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from compositional.core.errors import UserError, fault_of_machine
from compositional.demo.plan import DemoArguments, make_demo_plan, parse_demo_arguments
from compositional.experiment.arguments import Arguments, parse_arguments
from compositional.experiment.plan import make_plan
from compositional.export.plan import ExportArguments, make_export_plan, parse_export_arguments
from compositional.judge.plan import JudgeArguments, make_judge_plan, parse_judge_arguments
from compositional.preparation.plan import PreparationArguments, make_preparation_plan, parse_preparation_arguments
from compositional.report.plan import TableArguments, make_table_plan, parse_table_arguments
from compositional.sweep.arguments import SweepArguments, parse_sweep_arguments
from compositional.sweep.plan import SweepPlan, make_sweep_plan
from compositional.sweep.scripts import Resources, numbered, shell_script, slurm_script
from helpers.judging import store_predictions
from helpers.planning import store

COMMON = ("pocket", "sums", "trans", "finished", "judged", "absent", "es", "witty", "none", "0", "1", "2", "0.5")
NUMBERS = (
    "0",
    "-1",
    "1",
    "3",
    "4294967296",
    "9" * 30,
    "9" * 5000,
    "0.5",
    "-5e-1",
    "1e-400",
    "nan",
    "inf",
    "-inf",
    "1e999",
    "٣",
    "1_0",
    "²",
)
ODD = (
    *(
        "",
        " ",
        ".",
        "..",
        "/",
        "a/b",
        "~",
        "~nobody",
        "-",
        "--",
        "-x",
        "@",
        "@none",
        "@sums",
        "@" + "a" * 5000,
        "%",
        "%s",
        "%(prog)s",
    ),
    *(
        "{}",
        "{",
        "{language}",
        "{language!x}",
        "{0}",
        "*",
        "[",
        "[!",
        "=",
        "KEY=VALUE",
        "density=x",
        "density=9",
        "rank=" + "9" * 5000,
    ),
    *(
        "x.py",
        "/none/x.py",
        "é" * 300,
        "a" * 300,
        "a" * 5000,
        "a\nb",
        "a\rb",
        "\udcff",
        "'",
        '"',
        "\\",
        "\ufeff",
        "a@b",
        "a@",
        "@@",
    ),
    *(
        "http://",
        "http://[",
        "http://localhost:99999",
        "http://localhost:8080",
        "ftp://x",
        "--seed 1",
        "--workspace x",
        "'",
        "@none x",
    ),
    *("output_dir=x", "seed=1", "learning_rate=x", "optim=5", "max_steps=true", "max_steps=5", "save_steps=" + "[" * 100_000),
)
KNOWN: dict[str, tuple[str, ...]] = {
    "dataset": ("pocket_dialogs", "pocket_dialogs_es", "pocket_replies", "dialogsum", "pocket_sentences_es"),
    "secondary_task_dataset": ("pocket_dialogs_es", "pocket_dialogs_witty", "pocket_dialogs_es_casual"),
    "merge_datasets": ("pocket_dialogs_es", "pocket_dialogs_fr", "pocket_sentences_es"),
    "lora_merge_strategy": ("linear", "ties", "dam", "lorahub", "learnable_calibration", "learnable_calibration_pp"),
    "lora_merge_modules": ("sums", "trans"),
    "methods": ("linear_merge", "paper", "own", "ties", "zero_shot", "learnable_calibration_merge", "linear"),
    "models": ("pocket", "llama", "qwen", "slm_v1", "some/model"),
    "languages": ("es", "fr", "de"),
    "tones": ("witty", "casual"),
    "sub_tasks": ("sum_tr_es", "reply_tone_casual"),
    "only": ("tedtalks_*", "dialogsum_es", "pocket_dialogs_es", "*"),
    "translator": ("marian", "chat", "pocket"),
    "tone_rewriter": ("llm_toys", "chat", "pocket"),
    "drop": ("empty",),
    "reference": ("Linear merge", "Learnable Calibration++"),
    "experiment_flags": ("--max_test_examples 5", "--seed 1", "--bf16 --batch_size 0", "--help", "--do_train --do_trian"),
    "judge_flags": ("--judge_model_name_or_path pocket", "--judge_url http://x"),
    "data_flags": ("--pocket", "--only x"),
}
# Combinations that single draws would hardly meet.
WHOLE: dict[type, tuple[str, ...]] = {
    Arguments: (
        "--experiment_name e --dataset pocket_dialogs --do_predict",
        "--experiment_name e --dataset pocket_dialogs --stored_model_name sums --do_predict",
        "--experiment_name e --dataset pocket_dialogs --secondary_task translation --tgt_lang es --secondary_task_dataset "
        "pocket_dialogs_es --lora_merge_modules sums trans --do_predict",
    ),
    JudgeArguments: ("--experiment_name judged --judge_model_name_or_path pocket",),
    ExportArguments: ("--experiment_name finished",),
    DemoArguments: ("--experiments finished",),
    PreparationArguments: ("--pocket", "--only pocket_dialogs_es"),
}


def words_of(draw: st.DrawFn, field: dataclasses.Field, kind: Any) -> list[str]:
    name, choices = f"--{field.name}", field.metadata["choices"]
    if kind is bool:
        return [name]
    texts = st.sampled_from(tuple(choices or ()) + KNOWN.get(field.name, COMMON))
    if int in (kind, *typing.get_args(kind)) or float in (kind, *typing.get_args(kind)):
        texts = st.sampled_from(NUMBERS)
    any_text = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=5)
    values = draw(st.lists(st.one_of(texts, texts, st.sampled_from(ODD), any_text), min_size=1, max_size=3))
    many = typing.get_origin(kind) is list
    return [f"{name}={values[0]}"] if draw(st.booleans()) and not many else [name, *(values if many else values[:1])]


@st.composite
def command_lines(draw: st.DrawFn, kind: type) -> list[str]:
    """Some of a command's flags with known, odd and other values, often after a command that is right."""
    types = typing.get_type_hints(kind)
    declared = [field for field in fields(kind) if field.name != "workspace"]
    chosen = draw(st.lists(st.sampled_from(declared), max_size=5))
    words = draw(st.sampled_from(("", *WHOLE.get(kind, ())))).split()
    return words + [word for field in chosen for word in words_of(draw, field, types[field.name])]


@pytest.fixture
def folder(tmp_path, monkeypatch, workspace) -> Path:
    """The current directory, which holds a workspace with two adapters, predictions, and a finished experiment."""
    for name in ("sums", "trans"):
        store(workspace, name)
    store_predictions(workspace, "judged", [("an input", "an output")])
    workspace.output("finished").mkdir(parents=True)
    arguments = Arguments(experiment_name="finished", dataset="pocket_dialogs", zero_shot=True, do_predict=True)
    cost = {"inferences_per_example": 1, "extra_parameters": 0, "extra_bytes": 0}
    results = {"method": "zero_shot", "arguments": asdict(arguments), "cost": cost}
    workspace.results("finished").write_text(json.dumps(results))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def check_ends_in_a_plan_or_in_lines(folder: Path, words: list[str], make: Callable[[list[str]], object]) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    mistakes: list[str] = []
    out, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
        try:
            make([*words, "--workspace", str(folder / "workspace")])
        except UserError as error:
            mistakes = list(error.mistakes)
            assert mistakes, "it is refused without a word"
        except OSError as error:  # of the machine, such as a name that is too long: the command shows it as one line
            mistakes = [fault_of_machine(error) or pytest.fail(f"a traceback of {error!r}")]
    assert all(mistake.strip() for mistake in mistakes)
    assert out.getvalue() == errors.getvalue() == ""
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def script_of(plan: SweepPlan) -> str:
    steps, table = plan.steps, plan.table()
    resources = Resources(plan.arguments.gpus_per_task, plan.arguments.gpus_per_judge, plan.arguments.cpus_per_task)
    return (
        numbered([*steps, table]) + shell_script([*steps, table], None) + slurm_script(steps, table, resources, plan.folder, None)
    )


@given(words=command_lines(Arguments))
def test_an_experiment_is_planned_or_refused(words, folder):
    check_ends_in_a_plan_or_in_lines(folder, words, lambda argv: make_plan(*parse_arguments(argv)))


@given(words=command_lines(JudgeArguments))
def test_a_judgement_is_planned_or_refused(words, folder):
    check_ends_in_a_plan_or_in_lines(folder, words, lambda argv: make_judge_plan(*parse_judge_arguments(argv)))


@given(words=command_lines(SweepArguments))
def test_a_sweep_is_planned_and_printed_or_refused(words, folder):
    check_ends_in_a_plan_or_in_lines(folder, words, lambda argv: script_of(make_sweep_plan(*parse_sweep_arguments(argv))))


@example(words=["--table=--"])
@given(words=command_lines(TableArguments))
def test_a_table_is_planned_or_refused(words, folder):
    check_ends_in_a_plan_or_in_lines(folder, words, lambda argv: make_table_plan(*parse_table_arguments(argv)))


@given(words=command_lines(ExportArguments))
def test_an_export_is_planned_or_refused(words, folder):
    check_ends_in_a_plan_or_in_lines(folder, words, lambda argv: make_export_plan(*parse_export_arguments(argv)))


@given(words=command_lines(DemoArguments))
def test_a_demo_is_planned_or_refused(words, folder):
    check_ends_in_a_plan_or_in_lines(folder, words, lambda argv: make_demo_plan(*parse_demo_arguments(argv)))


@given(words=command_lines(PreparationArguments))
def test_a_preparation_is_planned_or_refused(words, folder):
    check_ends_in_a_plan_or_in_lines(folder, words, lambda argv: make_preparation_plan(*parse_preparation_arguments(argv)))
