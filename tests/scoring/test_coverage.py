"""Simulated coverage: nominal 95 % intervals hold the truth in 90 to 97.5 % of simulations, and false marks are as rare."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest

from benchmarks.coverage import (
    EQUAL_ROWS,
    KINDS,
    Rows,
    as_if_independent,
    as_if_independent_marks,
    coverage,
    free_of_marks,
    today,
    today_marks,
)
from compositional.scoring.bootstrap import Strata

SIMULATIONS, FEWER = 1000, 200
# Kinds in which taking all examples, strata and seeds as independent does harm.
NOT_INDEPENDENT = [
    kind for kind in KINDS if ("input" in kind and "share of" not in kind) or "sd 0.3" in kind or "all at once" in kind
]


@dataclass(frozen=True)
class PartlyJudged(Rows):
    """Rows whose strata have verdicts on so many of their inputs only, the first ones."""

    judged: tuple[int, ...] = ()

    def draw(self, generator: np.random.Generator) -> Strata:
        """The scores of one simulation, NaN without a verdict."""
        found = super().draw(generator)
        for (name, stratum), count in zip(found.items(), self.judged, strict=True):
            found[name] = replace(stratum, scores=np.where(np.arange(self.inputs) < count, stratum.scores, np.nan))
        return found


PARTLY_JUDGED = {
    "4 of 200 inputs": PartlyJudged(judged=(4,)),
    "4 of 200 inputs, 3 seeds": PartlyJudged(seeds=3, within=0.9, judged=(4,)),
    "4 of the 200 inputs of one of 3 strata": PartlyJudged(strata=3, between=0.3, judged=(4, 200, 200)),
    "share of 10 %, 20 of 200 inputs": PartlyJudged(0.1, yes_or_no=True, judged=(20,)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_95_percent_intervals_hold_the_truth_as_often_as_they_say(kind):
    assert 0.90 <= coverage(KINDS[kind], SIMULATIONS, today) <= 0.975


@pytest.mark.parametrize("kind", PARTLY_JUDGED)
def test_intervals_of_few_verdicts_hold_the_truth_as_often_as_they_say(kind):
    assert 0.90 <= coverage(PARTLY_JUDGED[kind], SIMULATIONS, today) <= 0.975


def test_equal_rows_with_few_verdicts_are_marked_as_rarely_as_they_say():
    assert free_of_marks(1, PARTLY_JUDGED["4 of 200 inputs"], SIMULATIONS, today_marks) >= 0.90


@pytest.mark.parametrize("kind", [*NOT_INDEPENDENT, "share of 0.3 %"])
def test_a_percentile_bootstrap_of_independent_examples_strata_and_seeds_holds_it_too_rarely(kind):
    assert coverage(KINDS[kind], FEWER, as_if_independent) < 0.90


@pytest.mark.parametrize("kind", EQUAL_ROWS)
def test_tables_of_equal_rows_are_free_of_marks_as_often_as_they_say(kind):
    assert free_of_marks(*EQUAL_ROWS[kind], FEWER, today_marks) >= 0.90
    assert free_of_marks(*EQUAL_ROWS[kind], FEWER, as_if_independent_marks) < 0.90
