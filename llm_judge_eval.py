r"""Judge stored predictions: is each output what was asked for, yes or no?

    python llm_judge_eval.py --experiment_name NAME --batch_size 2 --stage test

Example, offline and without a model, on Pocket's data:

    python llm_judge_eval.py --experiment_name pocket_sum_tr_es_linear_merge --judge_model_name_or_path pocket
"""

from __future__ import annotations

import sys
from typing import Any

from src.command import exit_code_of
from src.engine.pool import Engines
from src.hub import use_cache_without_network
from src.judge.arguments import parse_judge_arguments
from src.judge.plan import make_judge_plan
from src.logs import log_to_screen


def run(argv: list[str], engines: Engines | None = None) -> dict[str, dict[str, Any]]:
    """Judge the experiments that a command line names; returns their records. Raises UserError for the user's mistakes.

    Calls that are given the same `engines` share the judge's.
    """
    arguments, mistakes = parse_judge_arguments(argv)
    plan = make_judge_plan(arguments, mistakes)
    if plan.needs_hub:
        use_cache_without_network()

    from src.judge.session import judge_all

    return judge_all(plan, engines)


if __name__ == "__main__":
    log_to_screen()
    sys.exit(exit_code_of(lambda: run(sys.argv[1:])))
