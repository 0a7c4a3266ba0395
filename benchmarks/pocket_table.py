"""The main table's methods on Pocket, for one sub-task of each compositional task: `python -m benchmarks.pocket_table`.

Trains the single-task adapters, runs the 18 methods of the paper and some of our own, judges, and writes a table per sub-task with
the rank correlation of methods with the paper's column. A second call goes on where the first stopped.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import llm_judge_eval
import run_experiment
from src.command import exit_code_of
from src.engine.pool import Engines
from src.errors import UserError, nearest
from src.files import read_json, write_text
from src.logs import log_to_screen
from src.paper import MAIN_BLOCK, paper_scores
from src.sweep.methods import OWN_METHODS, PAPER_METHODS, SHARED, Method, Naming, method_flags, shared_flags
from src.sweep.subtasks import SubTask, all_sub_tasks
from src.tables import METRIC_LABELS, aligned, percent
from src.workspace import Workspace

NAMING = Naming(prefix="pocket_")
DEFAULT_SUB_TASKS = ("sum_tr_es", "sum_tone_professional", "reply_tr_de", "reply_tone_casual")
SINGLE_TASK_BUDGET = "--max_train_examples 6400"
COMPOSED_BUDGET = 3200
LEARNING_RATES = {
    "learnable_calibration": "--calibration_learning_rate 5e-2",
    "learnable_calibration_pp": "--calibration_learning_rate 1e-2",
    "dam": "--lora_merge_options learning_rate=5e-2",
}


def commands(sub_tasks: list[SubTask]) -> list[str]:
    """The flags of every experiment, in an order in which each finds the adapters that it needs."""
    sets = dict.fromkeys(name for one in sub_tasks for name in (one.main_set, one.auxiliary_set))
    found = [
        f"--experiment_name {NAMING.adapter(name)} --dataset {name} --stored_model_name {NAMING.adapter(name)} --do_train "
        f"{SINGLE_TASK_BUDGET}"
        for name in sets
    ]
    found += [
        f"{method_flags(method, one, NAMING)} {_budget(method)} --do_predict".replace("  ", " ")
        for one in sub_tasks
        for method in (*PAPER_METHODS, *OWN_METHODS)
    ]
    for calibration in SHARED.values():
        learned, *taken = shared_flags(calibration, sub_tasks, NAMING)
        budget = f"--num_examples_merge {COMPOSED_BUDGET} {LEARNING_RATES[calibration]}"
        found += [f"{learned} {budget} --do_predict", *(f"{flags} --do_predict" for flags in taken)]
    return found


def _budget(method: Method) -> str:
    if "--do_train" in method.flags:
        return f"--max_train_examples {COMPOSED_BUDGET}"
    rates = [rate for name, rate in LEARNING_RATES.items() if f"--lora_merge_strategy {name} " in method.flags]
    return f"--num_examples_merge {COMPOSED_BUDGET} {' '.join(rates)}" if method.learns else ""


def table(sub_task: SubTask, workspace: Workspace) -> str:
    """One sub-task's rows with the paper's scores beside them, and the rank correlations, as Markdown."""
    rows = [(method.label, method.name) for method in PAPER_METHODS]
    rows += [(label, f"shared_{calibration}_merge") for label, calibration in SHARED.items()]
    rows += [(method.label, method.name) for method in OWN_METHODS]
    metric = METRIC_LABELS[sub_task.main.headline_metric]
    header = ("method", f"{metric} % [95 %]", "LLM-J (rule) % [95 %]", "exact match %", "extra parameters", "seconds")
    lines = [(*header, f"paper's {metric}", "paper's LLM-J")]
    ours: dict[str, tuple[float, float]] = {}
    for label, name in rows:
        results, judgement = _scores(workspace, NAMING.experiment(sub_task, name))
        scores = results["stages"]["test"]["metrics"]
        quality, judged = scores[sub_task.main.headline_metric], judgement["stages"]["test"]["yes"]
        ours[label] = (quality["mean"], judged["mean"])
        paper = paper_scores(label, sub_task.main.name, sub_task.auxiliary.name)
        theirs = (f"{paper.quality:.2f}", f"{paper.judged_good:.2f}") if paper else ("", "")
        extra, seconds = results["cost"]["extra_parameters"], results["seconds"]["total"]
        exact = f"{100 * scores['exact_match']['mean']:.1f}"
        lines.append((label, percent(quality), percent(judged), exact, f"{extra:,}", f"{seconds:.0f}", *theirs))
    return f"### {sub_task.name}\n\n{aligned(lines)}\n{_correlations(sub_task, ours, metric)}\n"


def _scores(workspace: Workspace, experiment: str) -> tuple[dict[str, Any], dict[str, Any]]:
    return read_json(workspace.results(experiment)), read_json(workspace.judgement(experiment, "pocket"))


def _correlations(sub_task: SubTask, ours: dict[str, tuple[float, float]], metric: str) -> str:
    from scipy.stats import spearmanr

    papers = [paper_scores(label, sub_task.main.name, sub_task.auxiliary.name) for label in MAIN_BLOCK]
    quality = spearmanr([ours[label][0] for label in MAIN_BLOCK], [one.quality for one in papers]).statistic
    judged = spearmanr([ours[label][1] for label in MAIN_BLOCK], [one.judged_good for one in papers]).statistic
    return f"Spearman's rank correlation with the paper over {len(MAIN_BLOCK)} methods: {metric} {quality:.2f}, LLM-J {judged:.2f}."


def run(argv: list[str]) -> None:
    """Run what is not done yet, judge it, and write the tables."""
    known = {one.name: one for one in all_sub_tasks("pocket")}
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pocket_table", description=__doc__)
    parser.add_argument("--workspace", default=".", help="folder of the experiments; the table is output/pocket_table.md")
    parser.add_argument("--sub_tasks", nargs="+", default=DEFAULT_SUB_TASKS, metavar="NAME", help=f"of {', '.join(known)}")
    arguments = parser.parse_args(argv)
    if unknown := [f"--sub_tasks {name}: {nearest(name, known)}" for name in arguments.sub_tasks if name not in known]:
        raise UserError(*unknown)
    start, sub_tasks, workspace = (
        time.monotonic(),
        [known[name] for name in arguments.sub_tasks],
        Workspace(Path(arguments.workspace)),
    )
    everything = commands(sub_tasks)
    with Engines(highest_rank=32) as engines:
        for number, flags in enumerate(everything, start=1):
            print(f"\n[{number}/{len(everything)}] python run_experiment.py @configs/pocket.txt {flags}", flush=True)
            run_experiment.run(["@configs/pocket.txt", *shlex.split(flags), "--workspace", arguments.workspace], engines)
    methods = [method.name for method in (*PAPER_METHODS, *OWN_METHODS)] + [f"shared_{name}_merge" for name in SHARED.values()]
    experiments = [NAMING.experiment(one, name) for one in sub_tasks for name in methods]
    judge = ["--judge_model_name_or_path", "pocket", "--workspace", arguments.workspace, "--experiment_name", *experiments]
    llm_judge_eval.run(judge)
    path = workspace.root / "output" / "pocket_table.md"
    write_text(path, "\n".join(table(one, workspace) for one in sub_tasks))
    print(f"\n{path.read_text(encoding='utf-8')}\n{path}; {time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    log_to_screen()
    sys.exit(exit_code_of(lambda: run(sys.argv[1:])))
