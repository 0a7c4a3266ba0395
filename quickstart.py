"""The paper's comparison on Pocket, for summarization + translation to Spanish: `make quickstart`.

Trains the two single-task LoRA adapters, runs eight methods with the very commands that it prints, has them judged, and ends with a
table. A second call resumes where the first stopped, or shows the table at once; `--overwrite` runs everything again.
"""

from __future__ import annotations

import shlex
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import llm_judge_eval
import run_experiment

sys.path.insert(0, str(Path(__file__).resolve().parent / "src"))

from compositional.core.errors import UserError
from compositional.core.files import read_json, write_text
from compositional.core.flags import build_parser, flag, parse
from compositional.core.logs import log_to_screen
from compositional.core.processes import exit_code_of
from compositional.core.workspace import Workspace
from compositional.prediction.vllm_backend import Engines
from compositional.report.formats import ComparedExperiment, markdown_table
from compositional.sweep.benchmarks import POCKET, all_sub_tasks
from compositional.sweep.graph import make_steps
from compositional.sweep.rows import PAPER_ROWS
from compositional.sweep.selection import Choice, cells

WHAT_VARIES = "All was trained with one seed. The intervals are over the test's inputs and leave out how much training varies."
METHODS = (
    *("Zero-shot", "Main-task LoRA", "Auxiliary-task LoRA", "Linear merge", "Multi-step LoRA usage", "Joint-expert LoRA"),
    *("Learnable Calibration", "Learnable Calibration++"),
)
CHOICE = Choice(
    POCKET,
    models={"": None},
    sub_tasks=[one for one in all_sub_tasks("pocket") if one.name == "sum_tr_es"],
    rows=[row for row in PAPER_ROWS if row.label in METHODS],
    judged=False,
)


@dataclass
class QuickstartArguments:
    """How the comparison is run."""

    overwrite: bool = flag(False, "what", "run again what is done already, trainings included")


def run(argv: list[str]) -> None:
    """Run what is not done yet, judge it, and show the table; raises UserError for the user's mistakes."""
    parser = build_parser(QuickstartArguments, "quickstart.py", __doc__)
    arguments, mistakes = parse(parser, QuickstartArguments, argv)
    if mistakes:
        raise UserError(*mistakes)
    overwrite = "--overwrite" if arguments.overwrite else ""
    start = time.monotonic()
    steps = make_steps(replace(CHOICE, profile=replace(POCKET, last=overwrite)))
    with Engines(highest_rank=32) as engines:
        for number, step in enumerate(steps, start=1):
            print(f"\n[{number}/{len(steps)}] {step}", flush=True)
            run_experiment.run(list(step.words), engines)
    experiments = {cell.label: cell.experiment for cell in cells(CHOICE)}
    judge = f"--judge_model_name_or_path pocket --experiment_name {' '.join(experiments.values())} {overwrite}".strip()
    print(f"\npython llm_judge_eval.py {judge}", flush=True)
    judgements = llm_judge_eval.run(shlex.split(judge))
    workspace = Workspace(Path("."))
    rows = [ComparedExperiment(label, read_json(workspace.results(name)), judgements[name]) for label, name in experiments.items()]
    table = f"{markdown_table(rows)}\n{WHAT_VARIES}\n"
    path = workspace.root / "output" / "quickstart.md"
    write_text(path, table)
    print(
        f"\nSummarization + translation (es) on Pocket, {rows[0].results['stages']['test']['counts']['examples']} test examples\n"
    )
    print(table)
    print(f"{path}; {time.monotonic() - start:.0f} s")


def main() -> int:
    """The command; returns its exit code."""
    log_to_screen()
    return exit_code_of(lambda: run(sys.argv[1:]))


if __name__ == "__main__":
    sys.exit(main())
