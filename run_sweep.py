r"""Run all experiments of a table: data → single-task adapters → methods → judge → table, each as soon as what it needs is there.

Run again, it does only what is missing. Example, offline and without a GPU:

    python run_sweep.py --tasks sum_tr --languages es --methods zero_shot linear_merge learnable_calibration_merge
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "src"))

from compositional.core.processes import exit_code_of
from compositional.sweep.arguments import parse_sweep_arguments
from compositional.sweep.plan import make_sweep_plan
from compositional.sweep.project import CHECKOUT
from compositional.sweep.scripts import Resources, numbered, shell_script, slurm_script
from compositional.sweep.steps import Kind


def run(argv: list[str]) -> bool:
    """Run the sweep that a command line asks for, or print it; returns whether all of it is done.

    Raises UserError for the user's mistakes, before anything is run, and for results that make no table, at the end.
    """
    arguments, mistakes = parse_sweep_arguments(argv)
    plan = make_sweep_plan(arguments, mistakes)
    if arguments.dry_run:
        print(numbered([*plan.steps, plan.table()]))
        return True
    resources = Resources(arguments.gpus_per_task, arguments.gpus_per_judge, arguments.cpus_per_task)
    folder = None if Path.cwd() == CHECKOUT else CHECKOUT
    if arguments.print_commands == "shell":
        print(shell_script([*plan.steps, plan.table()], folder), end="")
        return True
    if arguments.print_commands == "slurm":
        print(slurm_script(plan.steps, plan.table(), resources, plan.folder, folder), end="")
        return True

    from compositional.core.workspace import Workspace
    from compositional.sweep.execution import Progress, run_steps
    from compositional.sweep.view import View, summary

    progress = Progress(plan.steps, plan.folder)
    with Workspace(Path(arguments.workspace)).locked(sweep="of this workspace"), View(progress) as view:
        run_steps(progress, resources, arguments.address, view)
    print(summary(progress))
    done = [step for step in plan.steps if progress.is_done(step)]
    if any(step.predicts for step in done):
        import make_tables

        judged = any(step.kind is Kind.JUDGE for step in done)
        print(make_tables.run(list(plan.table(judged).words)))
    return len(done) == len(plan.steps)


def main() -> int:
    """The command: exit code 0 when all is done, 1 when something failed, 2 for mistakes."""
    done: list[bool] = []
    code = exit_code_of(lambda: done.append(run(sys.argv[1:])))
    return code or int(not all(done))


if __name__ == "__main__":
    sys.exit(main())
