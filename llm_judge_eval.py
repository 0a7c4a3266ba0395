r"""Judge stored predictions: is each output what was asked for, yes or no?

    python llm_judge_eval.py --experiment_name NAME --batch_size 2 --stage test

Example, offline and without a model, on Pocket's data:

    python llm_judge_eval.py --experiment_name pocket_sum_tr_es_linear_merge --judge_model_name_or_path pocket
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent / "src"))

from compositional.core.hub import use_cache_without_network
from compositional.core.logs import log_to_screen
from compositional.core.processes import exit_code_of
from compositional.judge.plan import make_judge_plan, parse_judge_arguments
from compositional.prediction.vllm_backend import Engines


def run(argv: list[str], engines: Engines | None = None) -> dict[str, dict[str, Any]]:
    """Judge the experiments that a command line names; returns their records. Raises UserError for the user's mistakes.

    Calls that are given the same `engines` share the judge's.
    """
    arguments, mistakes = parse_judge_arguments(argv)
    plan = make_judge_plan(arguments, mistakes)
    if plan.needs_hub:
        use_cache_without_network()

    from compositional.judge.judging import judge_all

    return judge_all(plan, engines)


def main() -> int:
    """The command; returns its exit code."""
    log_to_screen()
    return exit_code_of(lambda: run(sys.argv[1:]))


if __name__ == "__main__":
    sys.exit(main())
