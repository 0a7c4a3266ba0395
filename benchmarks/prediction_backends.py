"""Requests per second of both prediction backends on Pocket: the test sets of the 14 compositional sub-tasks.

    python -m benchmarks.prediction_backends --workspace FOLDER

Trains the nine single-task adapters (short), merges them linearly, and predicts every sub-task's 250 test examples four times: by
each backend, with one process for all (vLLM: one engine), and with a process per experiment. Prints a Markdown table; the
predict stage has the start of its engine or model in it. A second call
uses the adapters of the first.
"""

from __future__ import annotations

import argparse
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import run_experiment
from compositional.core.files import read_json
from compositional.core.logs import log_to_screen
from compositional.core.workspace import Workspace
from compositional.pocket.lexicon import LANGUAGES, TONES
from compositional.prediction.vllm_backend import Engines

ROOT = Path(__file__).parents[1]
POCKET = f"@{ROOT / 'configs' / 'pocket.txt'}"
MAIN_SETS = ("pocket_dialogs", "pocket_replies")
VARIANTS = (*LANGUAGES, *TONES)
SUB_TASKS = [(source, variant) for source in MAIN_SETS for variant in VARIANTS]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workspace", type=Path, required=True, help="folder for adapters and predictions")
    parser.add_argument("--sub_tasks", type=int, default=len(SUB_TASKS), help="use the first N sub-tasks only")
    options = parser.parse_args()
    log_to_screen()
    workspace, sub_tasks = Workspace(options.workspace), SUB_TASKS[: options.sub_tasks]
    for name in [*MAIN_SETS, *(f"pocket_sentences_{variant}" for variant in VARIANTS)]:
        train = f"--experiment_name {name} --dataset {name} --stored_model_name {name} --do_train --max_train_examples 1600"
        run_experiment.run([POCKET, *shlex.split(f"{train} --workspace {workspace.root}")])
    rows = [
        measured(workspace, sub_tasks, "vllm", "one process, one engine", in_one_process),
        measured(workspace, sub_tasks, "transformers", "one process", in_one_process),
        measured(workspace, sub_tasks, "vllm", "a process per experiment", in_processes),
        measured(workspace, sub_tasks, "transformers", "a process per experiment", in_processes),
    ]
    print(
        "| backend | processes | requests | seconds, all | requests/s, all | seconds, predict stage | requests/s, predict stage |"
    )
    print("|---|---|---:|---:|---:|---:|---:|")
    print("\n".join(rows))
    return 0


def command(sub_task: tuple[str, str], backend: str, root: Path) -> list[str]:
    source, variant = sub_task
    secondary = f"translation --tgt_lang {variant}" if variant in LANGUAGES else f"tone_adjustment --tgt_tone {variant}"
    flags = (
        f"--experiment_name merged_{source}_{variant} --dataset {source} --secondary_task {secondary} "
        f"--secondary_task_dataset {source}_{variant} --lora_merge_strategy linear "
        f"--lora_merge_modules {source} pocket_sentences_{variant} --do_predict --prediction_backend {backend} --workspace {root}"
    )
    return [POCKET, *shlex.split(flags)]


def in_one_process(commands: list[list[str]]) -> None:
    with Engines() as engines:
        for words in commands:
            run_experiment.run(words, engines)


def in_processes(commands: list[list[str]]) -> None:
    for words in commands:
        subprocess.run([sys.executable, str(ROOT / "run_experiment.py"), *words], check=True)


def measured(
    workspace: Workspace, sub_tasks: list[tuple[str, str]], backend: str, label: str, run: Callable[[list[list[str]]], None]
) -> str:
    """A line of the table: all sub-tasks' commands, run anew."""
    names = [f"merged_{source}_{variant}" for source, variant in sub_tasks]
    for name in names:
        for folder in (workspace.output(name), workspace.predictions_folder(name), workspace.stored_model(name)):
            shutil.rmtree(folder, ignore_errors=True)
    start = time.monotonic()
    run([command(sub_task, backend, workspace.root) for sub_task in sub_tasks])
    seconds = time.monotonic() - start
    results = [read_json(workspace.results(name)) for name in names]
    requests = sum(one["stages"]["test"]["counts"]["examples"] for one in results)
    predicting = sum(one["seconds"]["predict_test"] for one in results)
    figures = f"{requests:,} | {seconds:.0f} | {requests / seconds:.1f} | {predicting:.0f} | {requests / predicting:.1f}"
    return f"| {backend} | {label} | {figures} |"


if __name__ == "__main__":
    sys.exit(main())
