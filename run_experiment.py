r"""Run one experiment: parse → check → data → train → merge → calibrate → predict → score → record.

Example, offline and without a GPU:

    python run_experiment.py @configs/pocket.txt --experiment_name summaries --dataset pocket_dialogs \
        --stored_model_name summaries --do_train --do_predict
"""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "src"))

from compositional.core.flags import files_of_flags
from compositional.core.hub import use_cache_without_network
from compositional.core.logs import log_to_screen
from compositional.core.processes import exit_code_of
from compositional.experiment.arguments import parse_arguments
from compositional.experiment.plan import make_plan
from compositional.prediction.vllm_backend import Engines


def run(argv: list[str], engines: Engines | None = None) -> None:
    """Run the experiment that a command line asks for; raises UserError for the user's mistakes, before anything is written.

    Runs that are given the same `engines` share vLLM's; a run that is given none ends its own.
    """
    arguments, mistakes = parse_arguments(argv)
    plan = make_plan(arguments, mistakes, files_of_flags(argv))
    if plan.needs_hub:
        use_cache_without_network()

    from compositional.core.processes import is_main_process
    from compositional.experiment.examples import load_data
    from compositional.experiment.results import show_results
    from compositional.experiment.resume import is_done
    from compositional.experiment.stages import open_experiment

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


def main() -> int:
    """The command; returns its exit code."""
    log_to_screen()
    return exit_code_of(lambda: run(sys.argv[1:]))


if __name__ == "__main__":
    sys.exit(main())
