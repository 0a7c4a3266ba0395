"""What a call would make, from what, and how large; nothing is fetched or written."""

from __future__ import annotations

from src.preparation.plan import PreparationPlan, SetPlan
from src.preparation.saving import record_of
from src.preparation.session import SetToMake, sets_to_make
from src.tables import aligned

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
