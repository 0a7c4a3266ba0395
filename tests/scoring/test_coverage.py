"""Simulated coverage: nominal 95 % intervals hold the truth in 90 to 97.5 % of simulations, and false marks are as rare."""

from __future__ import annotations

import pytest

from benchmarks.coverage import (
    EQUAL_ROWS,
    KINDS,
    as_if_independent,
    as_if_independent_marks,
    coverage,
    free_of_marks,
    today,
    today_marks,
)

SIMULATIONS, FEWER = 1000, 200
# Kinds in which taking all examples, strata and seeds as independent does harm.
NOT_INDEPENDENT = [
    kind for kind in KINDS if ("input" in kind and "share of" not in kind) or "sd 0.3" in kind or "all at once" in kind
]


@pytest.mark.parametrize("kind", KINDS)
def test_95_percent_intervals_hold_the_truth_as_often_as_they_say(kind):
    assert 0.90 <= coverage(KINDS[kind], SIMULATIONS, today) <= 0.975


@pytest.mark.parametrize("kind", [*NOT_INDEPENDENT, "share of 0.3 %"])
def test_a_percentile_bootstrap_of_independent_examples_strata_and_seeds_holds_it_too_rarely(kind):
    assert coverage(KINDS[kind], FEWER, as_if_independent) < 0.90


@pytest.mark.parametrize("kind", EQUAL_ROWS)
def test_tables_of_equal_rows_are_free_of_marks_as_often_as_they_say(kind):
    assert free_of_marks(*EQUAL_ROWS[kind], FEWER, today_marks) >= 0.90
    assert free_of_marks(*EQUAL_ROWS[kind], FEWER, as_if_independent_marks) < 0.90
