"""The paper's comparison on Pocket, for summarization + translation to Spanish: `make quickstart`.

Trains the two single-task LoRA adapters, runs eight methods with the very commands that it prints, and ends with a table. A second
call goes on where the first stopped, or shows the table at once.
"""

from __future__ import annotations

import shlex
import sys
import time
from pathlib import Path

import llm_judge_eval
import run_experiment
from src.command import exit_code_of
from src.engine.pool import Engines
from src.files import read_json, write_text
from src.logs import log_to_screen
from src.tables import Row, markdown_table
from src.workspace import Workspace

SUMMARIES, TRANSLATION = "pocket_dialogs_lora", "pocket_sentences_es_lora"
COMPOSED = "--dataset pocket_dialogs --secondary_task translation --tgt_lang es --secondary_task_dataset pocket_dialogs_es"
MODULES = f"--lora_merge_modules {SUMMARIES} {TRANSLATION}"
CALIBRATION = f"--for_each_component --merge_datasets pocket_dialogs_es {MODULES} --num_examples_merge 3200"

SINGLE_TASKS = {
    SUMMARIES: f"--dataset pocket_dialogs --stored_model_name {SUMMARIES} --do_train --max_train_examples 6400",
    TRANSLATION: f"--dataset pocket_sentences_es --stored_model_name {TRANSLATION} --do_train --max_train_examples 6400",
}
METHODS = {
    "Zero-shot": ("zero_shot", f"--zero_shot --stored_model_name {SUMMARIES}"),
    "Main-task LoRA": ("main_lora", f"--stored_model_name {SUMMARIES}"),
    "Auxiliary-task LoRA": ("auxiliary_lora", f"--stored_model_name {TRANSLATION}"),
    "Linear merge": ("linear_merge", f"--lora_merge_strategy linear {MODULES}"),
    "Multi-step LoRA usage": (
        "multi_step",
        f"--stored_model_name {SUMMARIES} --secondary_stored_model_name {TRANSLATION} --multi_step_prompts --prompt_style empty",
    ),
    "Joint-expert LoRA": (
        "joint_expert",
        "--stored_model_name pocket_sum_tr_es_joint_expert_lora --multi_task_train_targets --do_train --max_train_examples 3200",
    ),
    "Learnable Calibration": (
        "learnable_calibration",
        f"{CALIBRATION} --lora_merge_strategy learnable_calibration --calibration_learning_rate 5e-2",
    ),
    "Learnable Calibration++": (
        "learnable_calibration_pp",
        f"{CALIBRATION} --lora_merge_strategy learnable_calibration_pp --calibration_learning_rate 1e-2",
    ),
}


def run() -> None:
    """Run what is not done yet, judge it, and show the table."""
    start = time.monotonic()
    commands = [f"--experiment_name {name} {flags}" for name, flags in SINGLE_TASKS.items()]
    commands += [f"--experiment_name {_experiment(name)} {COMPOSED} {flags} --do_predict" for name, flags in METHODS.values()]
    with Engines(highest_rank=32) as engines:
        for number, flags in enumerate(commands, start=1):
            print(f"\n[{number}/{len(commands)}] python run_experiment.py @configs/pocket.txt {flags}", flush=True)
            run_experiment.run(["@configs/pocket.txt", *shlex.split(flags)], engines)
    experiments = {label: _experiment(name) for label, (name, _) in METHODS.items()}
    judge = f"--judge_model_name_or_path pocket --experiment_name {' '.join(experiments.values())}"
    print(f"\npython llm_judge_eval.py {judge}", flush=True)
    judgements = llm_judge_eval.run(shlex.split(judge))
    workspace = Workspace(Path("."))
    rows = [Row(label, read_json(workspace.results(name)), judgements[name]) for label, name in experiments.items()]
    table = markdown_table(rows)
    path = workspace.root / "output" / "quickstart.md"
    write_text(path, table)
    print(
        f"\nSummarization + translation (es) on Pocket, {rows[0].results['stages']['test']['counts']['examples']} test examples\n"
    )
    print(table)
    print(f"{path}; {time.monotonic() - start:.0f} s")


def _experiment(method: str) -> str:
    return f"pocket_sum_tr_es_{method}"


if __name__ == "__main__":
    log_to_screen()
    sys.exit(exit_code_of(run))
