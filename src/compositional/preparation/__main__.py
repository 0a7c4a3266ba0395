"""The command `prepare_compositional_task_data.sh`, and what its --dry_run shows: what would be made, from what, and how large."""

from __future__ import annotations

import sys

from compositional.core.flags import files_of_flags
from compositional.core.logs import log_to_screen
from compositional.core.processes import exit_code_of
from compositional.core.tables import aligned
from compositional.preparation.plan import PreparationPlan, SetPlan, parse_preparation_arguments
from compositional.preparation.prepare import SetToMake, sets_to_make
from compositional.preparation.sets import record_of


def run(argv: list[str]) -> None:
    """Make the sets that a command line asks for; raises UserError for the user's mistakes, before anything is written."""
    arguments, mistakes = parse_preparation_arguments(argv)

    from compositional.preparation.plan import make_preparation_plan

    plan = make_preparation_plan(arguments, mistakes, files_of_flags(argv))

    from compositional.core.hub import use_cache_without_network
    from compositional.core.logs import quieten_libraries

    if plan.needs_hub and not arguments.dry_run:
        use_cache_without_network()
    quieten_libraries()
    if arguments.dry_run:
        print(dry_run_table(plan), end="")
        return
    from compositional.preparation.prepare import prepare

    prepare(plan)


_HEADER = ("set", "state", "made from", "targets by", "train", "validation", "test", "texts to rewrite", "their characters")


def dry_run_table(plan: PreparationPlan) -> str:
    """A line per set. Sources on the hub are not read: of them only the publishers' numbers of rows are known."""
    local = [one for one in plan.sets if not one.dataset.is_on_hub]
    read = {one.name: one for one in sets_to_make(PreparationPlan(plan.arguments, plan.workspace, local))}
    return aligned(
        [_HEADER, *(_of_read(read[one.name], plan.arguments.overwrite) if one.name in read else _of_hub(one) for one in plan.sets)]
    )


def _of_read(one: SetToMake, overwrite: bool) -> tuple[str, ...]:
    splits = one.source.splits
    texts = {example.reference for some in splits.values() for example in some} if one.plan.text_model else set()
    sizes = (f"{len(some):,}" for some in splits.values())
    return (
        one.name,
        one.state() if not overwrite else "to be made anew",
        one.plan.dataset.origin(),
        one.plan.text_model_name or "as published",
        *sizes,
        f"{len(texts):,}",
        f"{sum(map(len, texts)):,}",
    )


def _of_hub(one: SetPlan) -> tuple[str, ...]:
    source = one.dataset.source
    state = "made; not compared with the hub" if record_of(one.dataset.folder) else "missing"
    sizes = (f"{count:,} rows" for count in source.rows.values())
    made_by = (one.text_model_name, "all", "?") if one.text_model_name else ("as published", "0", "0")
    return (one.name, state, f"hub {source.hub_id}@{source.revision}", made_by[0], *sizes, *made_by[1:])


def main() -> int:
    """The command; returns its exit code."""
    log_to_screen()
    return exit_code_of(lambda: run(sys.argv[1:]))


if __name__ == "__main__":
    sys.exit(main())
