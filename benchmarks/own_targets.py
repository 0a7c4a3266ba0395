"""LC++ learned from a data set's composed targets, beside LC++ learned from the adapters' own two-step answers, on Pocket.

    python -m benchmarks.own_targets --workspace FOLDER

For each sub-task: multi-step LoRA usage in two passes, and for each number of `--inputs` two calibrations, which see the same
inputs in the same order. Few inputs are seen again until `--updates` are made; more are seen once each. Prints a Markdown table of
the headline metric on the test split, with 95 % intervals. Each experiment is a command of `run_experiment.py` with Pocket's
settings in `run_sweep.py`. A second call resumes where the first stopped, or shows the table at once. An experiment that was made
with other settings is not replaced: choose another folder.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import run_experiment
from compositional.core.errors import Mistakes, UserError, nearest
from compositional.core.logs import log_to_screen
from compositional.core.processes import exit_code_of
from compositional.core.tables import aligned, percent
from compositional.core.workspace import Workspace
from compositional.prediction.vllm_backend import Engines
from compositional.sweep.benchmarks import POCKET, SubTask, all_sub_tasks
from compositional.sweep.graph import make_steps
from compositional.sweep.rows import OWN_ROWS, PAPER_ROWS, TableRow
from compositional.sweep.selection import Choice, cells, wrong_seeds

if TYPE_CHECKING:
    from compositional.report.collect import Outcome
    from compositional.scoring.bootstrap import Strata

CONFIG = Path(__file__).parents[1] / "configs" / "pocket.txt"
SUB_TASKS = ("sum_tr_es", "sum_tone_professional", "reply_tr_de", "reply_tone_casual")
BATCH = 8  # examples of an update, as POCKET says
DATA_SET, MULTI_STEP = "LC++, targets of the data set", "LC++, multi-step targets"
ROWS = {row.name: row for row in (*PAPER_ROWS, *OWN_ROWS)}
TWO_PASSES = ROWS["multi_step"]
LEARNED = {DATA_SET: ROWS["learnable_calibration_pp_merge"], MULTI_STEP: ROWS["own_targets_pp_merge"]}
RESAMPLES, SIGNIFICANT = 10_000, 0.05


def main(argv: list[str] | None = None) -> int:
    log_to_screen()
    return exit_code_of(lambda: run(argv))


def run(argv: list[str] | None) -> None:
    """Run what is not done yet, and print the table; raises UserError for the user's mistakes."""
    options = _parser().parse_args(argv)
    if mistakes := mistakes_in(options):
        raise UserError(*mistakes)
    choice = chosen(options)
    steps = make_steps(choice)
    with Engines(highest_rank=32) as engines:
        for number, step in enumerate(steps, start=1):
            print(f"\n[{number}/{len(steps)}] {step}", flush=True)
            run_experiment.run(list(step.words), engines)
    print(f"\n{table(choice, options)}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workspace", type=Path, required=True, help="folder for adapters, predictions and results")
    parser.add_argument("--sub_tasks", nargs="+", default=list(SUB_TASKS), metavar="NAME", help="names as in run_sweep.py")
    parser.add_argument("--inputs", nargs="+", type=int, default=[64, 256, 1280], metavar="N", help="inputs to learn from")
    parser.add_argument("--updates", type=int, default=POCKET.usual_updates, help=f"updates of {BATCH} inputs, at least")
    parser.add_argument(
        "--seeds", nargs="+", type=int, default=[0], metavar="SEED", help="of the trainings, and of the choice and order of inputs"
    )
    parser.add_argument("--single_task_examples", type=int, default=3200, help="training examples of a single-task adapter")
    parser.add_argument("--test_examples", type=int, default=250)
    return parser


def mistakes_in(options: argparse.Namespace) -> list[str]:
    """What is wrong with the options, one line each."""
    from compositional.pocket.examples import SPLIT_SIZES

    mistakes = Mistakes(wrong_seeds(options.seeds))
    known = {one.name for one in all_sub_tasks("pocket")}
    mistakes += [f"--sub_tasks {name}: {nearest(name, known)}" for name in options.sub_tasks if name not in known]
    mistakes.when(len(set(options.sub_tasks)) < len(options.sub_tasks), "--sub_tasks: a sub-task stands there twice")
    mistakes.when(len(set(options.inputs)) < len(options.inputs), "--inputs: a number stands there twice")
    largest = SPLIT_SIZES["train"]
    mistakes += [f"--inputs {count}: from 1 to {largest} are possible" for count in options.inputs if not 1 <= count <= largest]
    for name in ("updates", "single_task_examples", "test_examples"):
        mistakes.when(getattr(options, name) < 1, f"--{name} {getattr(options, name)}: must be at least 1")
    mistakes.when(options.workspace.exists() and not options.workspace.is_dir(), f"--workspace {options.workspace}: not a folder")
    return list(mistakes)


def chosen(options: argparse.Namespace) -> Choice:
    """The experiments of the table."""
    own = {"single_task": f"--max_train_examples {options.single_task_examples}"}
    last = f"--max_test_examples {options.test_examples}"
    known = {one.name: one for one in all_sub_tasks("pocket")}
    return Choice(
        replace(POCKET, common=f"@{shlex.quote(str(CONFIG))}", own=own, last=last),
        models={"": None},
        sub_tasks=[known[name] for name in options.sub_tasks],
        rows=[TWO_PASSES, *(learned_row(label, count, options.updates) for count in options.inputs for label in LEARNED)],
        seeds=options.seeds,
        judged=False,
        workspace=str(options.workspace),
    )


def learned_row(label: str, inputs: int, updates: int) -> TableRow:
    """LC++ from a number of inputs, with the learning rate of its row in the main table."""
    usual = LEARNED[label]
    seen_again = f" --trainer max_steps={updates}" if inputs < updates * BATCH else ""
    return replace(
        usual,
        label=_label(label, inputs),
        name=f"{usual.name.removesuffix('_merge')}_{inputs}_inputs_merge",
        like=usual.name,
        setting=f"--num_examples_merge {inputs}{seen_again}",
    )


def _label(label: str, inputs: int) -> str:
    return f"{label}, {inputs:,} inputs"


def table(choice: Choice, options: argparse.Namespace) -> str:
    """The table, and what its marks mean."""
    from compositional.report.collect import collect
    from compositional.scoring.bootstrap import Resampler
    from compositional.scoring.intervals import holm
    from compositional.scoring.score import METRIC_LABELS

    outcomes = collect(cells(choice), Workspace(options.workspace), "test", "")
    resampler, sub_tasks = Resampler(RESAMPLES, 0), choice.sub_tasks
    header = [f"{one.name} {METRIC_LABELS[one.main.headline_metric]} %" for one in sub_tasks]
    lines = [("method", "passes", *header)]

    compared = [(label, reference, one) for label, _, reference in _lines(options.inputs) if reference for one in sub_tasks]
    pairs = [(strata_of(outcomes, label, one), strata_of(outcomes, reference, one)) for label, reference, one in compared]
    p_values = holm([resampler.p_value(*pair) for pair in pairs])
    marks = {
        (label, one.name): mark(*pair) if p_value < SIGNIFICANT else ""
        for (label, _, one), pair, p_value in zip(compared, pairs, p_values, strict=True)
    }
    for label, passes, _ in _lines(options.inputs):
        intervals = [percent(asdict(resampler.interval(strata_of(outcomes, label, one)))) for one in sub_tasks]
        own_marks = [marks.get((label, one.name), "") for one in sub_tasks]
        lines.append((label, f"{passes}×", *(text + own for text, own in zip(intervals, own_marks, strict=True))))
    note = (
        f"Pocket, test split, {len(outcomes[0].ids)} examples of each sub-task; at least {options.updates} updates of {BATCH} "
        f"inputs; seeds: {', '.join(map(str, options.seeds))}. Means with 95 % intervals over inputs and seeds. ▲ ▼: multi-step "
        "targets are significantly better or worse than the data set's on the same inputs (paired bootstrap, "
        f"p < {SIGNIFICANT} after Holm's correction)."
    )
    return f"{aligned(lines)}\n{note}"


def _lines(inputs: list[int]) -> list[tuple[str, int, str]]:
    """Per line of the table: the row's label, its inference passes, and the label of the row that it is compared with, or ""."""
    lines = [(TWO_PASSES.label, 2, "")]
    for count in inputs:
        reference = _label(DATA_SET, count)
        lines += [(reference, 1, ""), (_label(MULTI_STEP, count), 1, reference)]
    return lines


def strata_of(outcomes: list[Outcome], label: str, sub_task: SubTask) -> Strata:
    """The headline metric of a row's experiments on a sub-task."""
    from compositional.report.table import stratum_of

    return {sub_task.name: stratum_of([one for one in outcomes if one.cell.label == label and one.cell.sub_task == sub_task])}


def mark(strata: Strata, reference: Strata) -> str:
    """What is written behind a figure that differs significantly from the reference."""
    from compositional.scoring.bootstrap import statistic

    return "▲" if statistic(strata) > statistic(reference) else "▼"


if __name__ == "__main__":
    sys.exit(main())
