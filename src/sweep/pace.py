"""How long a sweep still takes, from what its steps have taken so far."""

from __future__ import annotations

from collections import defaultdict

from src.sweep.status import DONE, FAILED, SETTLED, Event
from src.sweep.steps import Step

_JUDGING = ("llm_judge_eval.py",)
_SHORTEST = 2.0  # seconds; what takes less was done already, or does not count


def seconds_to_go(steps: list[Step], states: dict[str, Event], elapsed: float) -> float | None:
    """The seconds that are left if each step takes as long as those of its kind did, as many side by side as so far.

    None while nothing has ended that says so. A kind of which none has ended counts like the mean of all, the judge's not at all.
    """
    taken: dict[tuple[str, ...], list[float]] = defaultdict(list)
    left: list[tuple[str, ...]] = []
    for step in steps:
        event = states[step.name]
        if event.state in (DONE, FAILED) and event.seconds >= _SHORTEST:
            taken[_kind(step)].append(event.seconds)
        elif event.state not in SETTLED:
            left.append(_kind(step))
    if not taken:
        return None
    means = {kind: sum(seconds) / len(seconds) for kind, seconds in taken.items()}
    busy = sum(map(sum, taken.values()))
    usual = busy / sum(map(len, taken.values()))
    return sum(means.get(kind, 0.0 if kind == _JUDGING else usual) for kind in left) * elapsed / busy


def _kind(step: Step) -> tuple[str, ...]:
    """Steps that take about as long: judging, training, learning from composed examples, and by what is predicted with."""
    kinds = (*_JUDGING, "--do_train", "--merge_datasets", "--in_context_examples", "--multi_step_prompts", "--do_predict")
    return tuple(word for word in kinds if word in step.command)
