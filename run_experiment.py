r"""Run one experiment: parse → check → data → train → merge → calibrate → predict → score → record.

Example, offline and without a GPU:

    python run_experiment.py @configs/pocket.txt --experiment_name summaries --dataset pocket_dialogs \
        --stored_model_name summaries --do_train --do_predict
"""

from __future__ import annotations

import sys
from contextlib import nullcontext

from src.arguments import parse_arguments
from src.command import exit_code_of
from src.engine.pool import Engines
from src.hub import use_cache_without_network
from src.logs import log_to_screen
from src.plan import make_plan


def run(argv: list[str], engines: Engines | None = None) -> None:
    """Run the experiment that a command line asks for; raises UserError for the user's mistakes, before anything is written.

    Runs that are given the same `engines` share vLLM's; a run that is given none ends its own.
    """
    arguments, mistakes = parse_arguments(argv)
    plan = make_plan(arguments, mistakes)
    if plan.needs_hub:
        use_cache_without_network()

    from src.loading import load_data
    from src.processes import is_main_process
    from src.resume import is_done
    from src.session import open_experiment
    from src.summary import show_results

    data = load_data(plan)
    if is_done(plan, data):
        show_results(plan, note="done already; --overwrite runs it again")
        return
    with Engines() if engines is None else nullcontext(engines) as shared, open_experiment(plan, data, shared) as experiment:
        experiment.make_adapter()
        if not is_main_process():
            return
        experiment.predict()
        experiment.score()
        experiment.record()
    show_results(plan)


if __name__ == "__main__":
    log_to_screen()
    sys.exit(exit_code_of(lambda: run(sys.argv[1:])))
