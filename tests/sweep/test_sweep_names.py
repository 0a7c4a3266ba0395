"""A sweep of models and strategies whatever their paths look like, and of paths that mean what was checked."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from compositional.core.errors import UserError
from compositional.experiment.arguments import Arguments, parse_arguments
from compositional.sweep import project
from compositional.sweep.arguments import parse_sweep_arguments
from compositional.sweep.execution import Progress
from compositional.sweep.plan import SweepPlan, make_sweep_plan
from compositional.sweep.steps import Kind, Step
from helpers.sweeps import ONE_SUB_TASK

METHODS = "zero_shot linear_merge learnable_calibration_pp_merge joint_expert_lora"
UNUSUAL = ["my model", "Bob's", 'the "best"', "a{x}b", "{main}", "{", "50% $HOME", "a,b;c&d", "--zero_shot", "größe 模型", "a=b@c"]


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """The user's folder, which is not that of the commands."""
    folder = tmp_path / "user"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def checkout(tmp_path, monkeypatch) -> Path:
    """The folder of the commands."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    for module in ("project", "selection"):
        monkeypatch.setattr(f"compositional.sweep.{module}.CHECKOUT", folder)
    return folder


def plan_for(*words: str) -> SweepPlan:
    sub_tasks = [] if "--sub_tasks" in words else ONE_SUB_TASK.split()
    return make_sweep_plan(*parse_sweep_arguments([*sub_tasks, *words]))


def mistakes_for(*words: str) -> list[str]:
    with pytest.raises(UserError) as caught:
        plan_for(*words)
    return list(caught.value.mistakes)


def read_back(step: Step) -> Arguments:
    """What a command that is printed for a shell says."""
    words = shlex.split(str(step))[2:]
    assert words == list(step.words)
    arguments, mistakes = parse_arguments(words)
    assert mistakes == []
    assert arguments.experiment_name == step.experiment
    return arguments


def strategy_in(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("def merge(adapters, weights):\n    return adapters[0]\n")
    return path


@pytest.mark.parametrize("name", UNUSUAL)
def test_a_model_in_a_folder_of_any_name_is_that_of_every_experiment(name, folder):
    (folder / "models" / name).mkdir(parents=True)
    methods = [*METHODS.split(), "shared_learnable_calibration_merge"]
    words = ["--models", f"models/{name}", "llama", "--sub_tasks", "sum_tr_es", "sum_tr_fr", "--methods", *methods]
    steps = plan_for(*words).steps
    own = [step for step in steps if step.kind not in (Kind.PREPARE, Kind.JUDGE) and step.experiment.endswith(f"_{name}")]
    assert len(own) == 3 + 2 * 5
    for step in own:
        arguments = read_back(step)
        assert arguments.model_name_or_path == (str(folder / "models" / name) if step.kind is Kind.TRAIN else None)
        adapters = [*arguments.lora_merge_modules, *filter(None, [arguments.stored_model_name])]
        assert adapters
        assert all(adapter.endswith(f"_{name}") for adapter in adapters)


@pytest.mark.parametrize("name", UNUSUAL)
@pytest.mark.parametrize("path", ["{name}.py", "{name}/merge.py"])
def test_a_strategy_in_a_file_of_any_name_is_that_of_its_experiment(path, name, folder):
    file = path.replace("{name}", name)
    strategy_in(folder / file)
    plan = plan_for(f"--methods=./{file}")
    (step,) = [step for step in plan.steps if step.kind is Kind.MERGE]
    arguments = read_back(step)
    assert arguments.lora_merge_strategy == str(folder / file)
    assert arguments.lora_merge_modules == ["pocket_dialogs_lora", "pocket_sentences_es_lora"]
    assert step.experiment == f"pocket_sum_tr_es_merge_by_{Path(file).stem}"
    assert [step.kind for step in plan.steps[:2]] == [Kind.TRAIN, Kind.TRAIN]
    assert str(folder / file) in shlex.split(str(plan.table()))


def test_a_strategy_that_is_a_link_keeps_its_name_in_the_table(folder):
    strategy_in(folder / "kept" / "0123abcd")
    (folder / "mine.py").symlink_to("kept/0123abcd")
    plan = plan_for("--methods", "mine.py")
    (step,) = [step for step in plan.steps if step.kind is Kind.MERGE]
    assert step.experiment == "pocket_sum_tr_es_merge_by_mine"
    assert read_back(step).lora_merge_strategy == str(folder / "mine.py")
    assert str(folder / "mine.py") in shlex.split(str(plan.table()))


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("back\\slash", "a name is needed, not a path"),
        ("blank ", "a name does not begin or end with a blank"),
        ("line\nbreak", "a name has no characters that can't be printed"),
        ("x" * 190, "a name has at most 200 bytes"),
    ],
)
def test_a_model_that_no_experiment_can_be_named_after_is_one_line(name, fault, folder):
    (folder / name).mkdir()
    (mistake,) = mistakes_for("--models", name, "--methods", "zero_shot", "linear_merge")
    assert mistake.startswith("--models, --methods: an experiment would be named '")
    assert fault in mistake
    assert "\n" not in mistake


def test_a_strategy_whose_name_is_too_long_with_its_sub_tasks_is_one_line(folder):
    file = f"{'x' * 189}.py"
    strategy_in(folder / file)
    (mistake,) = mistakes_for("--methods", file)
    assert "a name has at most 200 bytes, this one has 215" in mistake


def test_the_logs_of_models_whose_names_differ_in_a_blank_are_apart(folder):
    for name in ("my model", "my_model"):
        (folder / name).mkdir()
    progress = Progress(plan_for("--models", "my model", "my_model", "--methods", "linear_merge").steps, folder)
    assert len({progress.log_of(group) for group in progress.groups}) == len(progress.groups)


# ---- started in another folder than that of the commands


def test_a_file_of_flags_within_quoted_flags_is_that_of_the_users_folder(folder, checkout):
    (folder / "mine.txt").write_text("--max_test_examples 7 --lora_merge_options 'a=x y'")
    (checkout / "mine.txt").write_text("--max_test_examples 9")
    plan = plan_for("--methods", "linear_merge", "--experiment_flags", " @mine.txt")
    (step,) = [step for step in plan.steps if step.kind is Kind.MERGE]
    assert "@mine.txt" not in step.words
    arguments = read_back(step)
    assert (arguments.max_test_examples, arguments.lora_merge_options) == (7, ["a=x y"])


@pytest.mark.parametrize("where", ["folder", "checkout"])
@pytest.mark.parametrize(
    ("name", "flag", "value"),
    [
        ("experiment_flags", "raw_data_dir", "raw"),
        ("single_task_flags", "model_name_or_path", "models/one"),
        ("experiment_flags", "lora_merge_strategy", "mine.py"),
        ("judge_flags", "judge_model_name_or_path", "judges/one"),
        ("data_flags", "raw_data_dir", "raw"),
        ("data_flags", "translator_model", "opus-{language}"),
        ("data_flags", "tone_rewriter_adapter", "toys/adapter"),
        ("data_flags", "length_models", "models/one"),
    ],
)
def test_a_relative_path_that_means_something_else_where_the_commands_run_is_one_line(name, flag, value, where, folder, checkout):
    path = {"folder": folder, "checkout": checkout}[where] / value.replace("{language}", "fr")
    strategy_in(path) if path.suffix else path.mkdir(parents=True)
    words = ["--models", "llama", "--methods", "linear_merge", f"--{name}"]
    assert mistakes_for(*words, f" --{flag} {value}") == [
        f"--{name}: --{flag} {value}: name its whole path, as the commands run in {checkout}"
    ]
    whole = shlex.quote(str((folder if where == "folder" else checkout) / value))
    assert plan_for(*words, f" --{flag} {whole}").steps


def test_hub_ids_and_what_lies_in_the_folder_of_the_commands_are_no_such_paths(folder, checkout, monkeypatch):
    (folder / "pocket").mkdir()
    words = ["--models", "llama", "--methods", "linear_merge"]
    assert plan_for(*words, "--data_flags", " --translator_model a/b --length_models pocket c/d").steps
    (checkout / "raw").mkdir()
    monkeypatch.chdir(checkout)
    steps = plan_for(*words, "--data_flags", " --raw_data_dir raw").steps
    assert [step.words[2:4] for step in steps if step.kind is Kind.PREPARE] == [("--raw_data_dir", "raw")]
    monkeypatch.setattr(project, "CHECKOUT", None)
    monkeypatch.chdir(folder)
    (folder / "raw").mkdir()
    assert plan_for(*words, "--data_flags", " --raw_data_dir raw").steps


def test_a_model_that_is_a_folder_only_where_the_commands_run_is_one_line(folder, checkout):
    (checkout / "models" / "one").mkdir(parents=True)
    assert mistakes_for("--models", "models/one") == [
        f"--models models/one: there is no such folder here, but in {checkout}: name its whole path"
    ]
    (folder / "models" / "one").mkdir(parents=True)
    trained = next(step for step in plan_for("--models", "models/one").steps if step.kind is Kind.TRAIN)
    assert read_back(trained).model_name_or_path == str(folder / "models" / "one")
