"""The paper's eight commands as typed, in a folder with small stand-ins for its models and data sets.

Those that start an engine, or whose stage no other has, run as processes; the others in this process, with the same words.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import run_experiment
from compositional.core.files import read_json
from compositional.core.workspace import Workspace
from compositional.data import SPLITS
from helpers import PROJECT
from helpers.paper_commands import (
    COMMANDS,
    EXPERIMENTS,
    JOINT_EXPERT,
    JUDGE,
    LC_PP,
    LINEAR_MERGE,
    MAIN_LORA,
    MULTI_STEP,
    PAPER_JUDGE,
    PAPER_MODEL,
    SUMMARIZATION_LORA,
    ZERO_SHOT,
    experiment_of,
    flags_of,
)

METHODS = {
    SUMMARIZATION_LORA: "lora",
    ZERO_SHOT: "zero_shot",
    MAIN_LORA: "lora",
    LINEAR_MERGE: "peft_linear",
    MULTI_STEP: "multi_step",
    JOINT_EXPERT: "joint_expert",
    LC_PP: "learnable_calibration_pp",
}
SETS = {
    "dialogsum": "#Person2# goes home at {number}.",
    "dialogsum_es": "#Person2# se va a casa a las {number}.",
    "tedtalks_es": "Me voy a casa a las {number} .",
}
SIZES = {"train": 6, "validation": 2, "test": 3}
TRANSLATION_LORA = SUMMARIZATION_LORA.replace("dialogsum_lora", "tedtalks_es_lora").replace("dialogsum", "tedtalks_es")


def save_set(folder: Path, target: str) -> None:
    """A prepared set of a few examples."""
    import datasets

    def rows(split: str) -> list[dict[str, str]]:
        def row(number: int) -> dict[str, str]:
            said = f"#Person1#: When do you leave?\n#Person2#: At {number}."
            return {"id": f"{split}_{number}", "input": said, "target": target.format(number=number)}

        return [row(number) for number in range(SIZES[split])]

    splits = {split: datasets.Dataset.from_list(rows(split)) for split in SPLITS}
    datasets.DatasetDict(splits).save_to_disk(str(folder))


def as_process(command: str, folder: Path) -> str:
    """Run a command by a shell, as typed, with this environment's Python; returns what it says."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(command, shell=True, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def folder(tiny_models, tmp_path_factory) -> Path:
    """A working directory after all eight commands and the translation adapter's."""
    folder = tmp_path_factory.mktemp("paper")
    for script in ("run_experiment.py", "llm_judge_eval.py"):
        (folder / script).symlink_to(PROJECT / script)
    shutil.copytree(tiny_models["stablelm"], folder / PAPER_MODEL)
    shutil.copytree(tiny_models["llama"], folder / PAPER_JUDGE)
    for name, target in SETS.items():
        save_set(folder / "data" / name, target)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for command in (SUMMARIZATION_LORA, TRANSLATION_LORA, *EXPERIMENTS[1:], JUDGE):
            if command in (SUMMARIZATION_LORA, LC_PP, JUDGE):
                as_process(command, folder)
            else:
                run_experiment.run(flags_of(command))
    return folder


def test_the_commands_are_the_published_ones():
    assert len(COMMANDS) == 8
    assert all(command.startswith("CUDA_VISIBLE_DEVICES=0 python ") for command in COMMANDS)
    assert len({experiment_of(command) for command in EXPERIMENTS}) == 7
    assert experiment_of(JUDGE) == experiment_of(LC_PP)


@pytest.mark.slow(9)
@pytest.mark.parametrize("command", EXPERIMENTS, ids=experiment_of)
def test_each_experiment_records_its_method_and_its_scores(command, folder):
    results = read_json(Workspace(folder).results(experiment_of(command)))
    assert (results["experiment"], results["method"]) == (experiment_of(command), METHODS[command])
    counts = {stage: found["counts"]["examples"] for stage, found in results["stages"].items()}
    assert counts == {"valid": SIZES["validation"], "test": SIZES["test"]}
    assert all("rougeL" in found["metrics"] for found in results["stages"].values())
    assert results["cost"]["inferences_per_example"] == (2 if command == MULTI_STEP else 1)
    assert Path(results["arguments"]["model_name_or_path"]) == folder / PAPER_MODEL


@pytest.mark.slow
def test_the_judge_of_the_default_name_judges_the_calibrated_merge(folder):
    (path,) = Workspace(folder).results(experiment_of(JUDGE)).parent.glob("judge_*.json")
    assert "Llama-3.1-70B-Instruct" in path.name
    test = read_json(path)["stages"]["test"]
    assert 0 <= test["yes"]["mean"] <= 1
    lines = Workspace(folder).verdicts(experiment_of(JUDGE), "test", path.stem.removeprefix("judge_")).read_text().splitlines()
    assert [json.loads(line)["verdict"] in ("yes", "no") for line in lines] == [True] * SIZES["test"]


@pytest.mark.slow
def test_a_finished_experiment_says_that_it_is_done(folder, monkeypatch, caplog):
    monkeypatch.chdir(folder)
    path = Workspace(folder).results(experiment_of(LINEAR_MERGE))
    before = path.read_bytes()
    with caplog.at_level("INFO", "compositional"):
        run_experiment.run(flags_of(LINEAR_MERGE))
    assert "done already" in caplog.text
    assert path.read_bytes() == before
