"""Where the seconds of a short experiment go: a timeline of `run_experiment.py` that learns LC++ and predicts.

    python -m benchmarks.where_time_goes --workspace FOLDER
    python -m benchmarks.where_time_goes --workspace FOLDER --model FOLDER_OR_ID

Runs the real command in a process of its own, on Pocket's Spanish replies with a merge of two random adapters: a few updates, then
a few predictions. Pocket's model is the default; any chat model may take its place. Each line is the time between two moments that
every run passes. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.machine import heading
from benchmarks.prompts import write_random_adapter
from compositional.core.processes import exit_code_of
from compositional.core.workspace import Workspace
from compositional.models.model import Model

ROOT = Path(__file__).parents[1]
NAME, PARTS = "timeline", ("one", "other")
# Moments in their order: the function or method that marks it by its end, or with "before" by its start, and what has then ended.
MOMENTS = (
    ("run_experiment.parse_arguments", "before", "Python starts, the command line is imported"),
    ("run_experiment.make_plan", "after", "arguments are checked, the plan is made"),
    ("compositional.experiment.examples.load_data", "after", "data is read and hashed"),
    ("compositional.experiment.adapter.AdapterMaker.make", "before", "checks before the start (tokenizer, adapters, Trainer)"),
    ("compositional.models.model.Model.load", "after", "examples become tokens, the model is loaded"),
    ("compositional.training.trainer.TargetLossTrainer.training_step", "first", "merge, Trainer and optimizer; compilation"),
    ("compositional.training.trainer.TargetLossTrainer.training_step", "last", "updates"),
    ("compositional.experiment.adapter.AdapterMaker.make", "after", "the adapter is stored, checkpoints are deleted"),
    ("compositional.experiment.stages.Experiment.predict", "after", "predictions, with loading the model again"),
    ("compositional.experiment.stages.Experiment.record", "after", "scores and the record"),
)
IMPORTS = "torch, transformers and PEFT are imported"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workspace", type=Path, required=True, help="folder for data, adapters and output")
    parser.add_argument("--model", default="pocket", help="Pocket's model, a folder or a hub id")
    parser.add_argument("--updates", type=int, default=5, help="updates of 16 examples")
    parser.add_argument("--predictions", type=int, default=16)
    parser.add_argument("--child", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(_timeline(options.child)))
        return
    words = _command(options)
    start = time.time()
    child = [sys.executable, "-m", "benchmarks.where_time_goes", "--workspace", str(options.workspace), "--child", *words]
    environment = {"OMP_WAIT_POLICY": "PASSIVE", **os.environ}
    done = subprocess.run(child, cwd=ROOT, capture_output=True, text=True, env=environment, check=False)
    end = time.time()
    if done.returncode:
        sys.stderr.write(done.stderr)
        raise SystemExit(done.returncode)
    marks = [*json.loads(done.stdout.splitlines()[-1]), ("the process ends", end)]
    print(f"{heading()}: {options.model}, {options.updates} updates of 16 examples, {options.predictions} predictions\n")
    print("| until then | seconds | since the start |\n|---|---:|---:|")
    before = start
    for label, moment in marks:
        print(f"| {label} | {moment - before:.2f} | {moment - start:.2f} |")
        before = moment


def _command(options: argparse.Namespace) -> list[str]:
    """The flags of the run, whose adapters are made here. An earlier timeline in the workspace is deleted."""
    workspace, base = Workspace(options.workspace), Model(options.model)
    for part in PARTS:
        write_random_adapter(base, workspace.stored_model(part))
    for folder in (workspace.output(NAME), workspace.predictions_folder(NAME), workspace.stored_model(NAME)):
        shutil.rmtree(folder, ignore_errors=True)
    flags = (
        f"@{ROOT / 'configs' / 'pocket.txt'} --model_name_or_path {shlex.quote(options.model)} --experiment_name {NAME} "
        "--dataset pocket_replies --secondary_task translation --tgt_lang es --secondary_task_dataset pocket_replies_es "
        f"--lora_merge_strategy learnable_calibration_pp --lora_merge_modules {' '.join(PARTS)} "
        "--merge_datasets pocket_replies_es --do_predict "
        f"--num_examples_merge {16 * options.updates} --max_test_examples {options.predictions} "
        f"--report_to none --workspace {shlex.quote(str(workspace.root))}"
    )
    return shlex.split(flags)


def _timeline(words: list[str]) -> list[tuple[str, float]]:
    """Run the command and return the moments, each by what has ended then and in seconds since 1970."""
    sys.path.insert(0, str(ROOT))
    import run_experiment

    found: dict[str, float] = {}
    _mark(found, MOMENTS[0])
    _mark(found, MOMENTS[1])
    original = run_experiment.make_plan  # after it, the run imports the libraries that the other moments are in

    def make_plan(*inputs: Any) -> Any:
        plan = original(*inputs)
        for moment in MOMENTS[2:]:
            _mark(found, moment)
        found[IMPORTS] = time.time()
        return plan

    run_experiment.make_plan = make_plan
    run_experiment.run(words)
    labels = [label for _, _, label in MOMENTS]
    return [(label, found[label]) for label in (*labels[:2], IMPORTS, *labels[2:]) if label in found]


def _mark(found: dict[str, float], moment: tuple[str, str, str]) -> None:
    """Wrap a function or a method so that a call notes the time."""
    path, when, label = moment
    owner, name = _owner(path)
    function = getattr(owner, name)

    def marked(*inputs: Any, **more: Any) -> Any:
        if when in ("before", "first"):
            found.setdefault(label, time.time())
        result = function(*inputs, **more)
        if when == "last" or (when == "after" and label not in found):
            found[label] = time.time()
        return result

    setattr(owner, name, marked)


def _owner(path: str) -> tuple[Any, str]:
    """The module or class that holds a function, and its name there."""
    from importlib import import_module

    parts = path.split(".")
    for cut in range(len(parts) - 1, 0, -1):
        try:
            owner: Any = import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for part in parts[cut:-1]:
            owner = getattr(owner, part)
        return owner, parts[-1]
    raise ImportError(path)


if __name__ == "__main__":
    sys.exit(exit_code_of(main))
