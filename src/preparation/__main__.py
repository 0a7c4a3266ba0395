"""Make the benchmark's data sets: `bash prepare_compositional_task_data.sh`, or `python -m src.preparation`."""

from __future__ import annotations

import sys

from src.command import exit_code_of
from src.logs import log_to_screen
from src.preparation.arguments import parse_preparation_arguments


def run(argv: list[str]) -> None:
    """Make the sets that a command line asks for; raises UserError for the user's mistakes, before anything is written."""
    arguments, mistakes = parse_preparation_arguments(argv)

    from src.preparation.plan import make_preparation_plan

    plan = make_preparation_plan(arguments, mistakes)

    from src.hub import use_cache_without_network
    from src.logs import quieten_libraries

    if plan.needs_hub and not arguments.dry_run:
        use_cache_without_network()
    quieten_libraries()
    if arguments.dry_run:
        from src.preparation.dry_run import dry_run_table

        print(dry_run_table(plan), end="")
        return
    from src.preparation.session import prepare

    prepare(plan)


if __name__ == "__main__":
    log_to_screen()
    sys.exit(exit_code_of(lambda: run(sys.argv[1:])))
