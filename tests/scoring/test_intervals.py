"""Arithmetic of intervals and tests, by value and against other libraries."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from compositional.scoring.intervals import Errors, Seeds, effective_count, errors_of, holm, wilson


@pytest.mark.parametrize(("yes", "count"), [(0, 10), (1, 10), (5, 10), (10, 10), (3, 250), (250, 250)])
def test_wilsons_interval_is_scipys(yes, count):
    expected = binomtest(yes, count).proportion_ci(0.95, method="wilson")
    found = wilson(yes / count, count)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-9)
    assert found.mean == yes / count


def test_errors_of_one_training_without_seeds_are_those_of_a_mean():
    values = np.array([1.0, 2.0, 4.0, 9.0])
    errors = errors_of([Seeds(np.array([4.0]), (values - 4)[None] / 4)], 4)
    assert errors.inputs == pytest.approx(values.var(ddof=1) / 4)
    assert (errors.seeds, errors.degrees_of_inputs, errors.t) == (0, 3, pytest.approx(3.182, abs=1e-3))


def test_errors_of_seeds_are_those_of_two_way_variance_components():
    inputs, seeds = np.array([[-3.0, -1.0, 1.0, 3.0]]), np.array([[-2.0], [0.0], [2.0]])
    mixed = np.array([[1.0, -1.0, 1.0, -1.0], [-2.0, 2.0, -2.0, 2.0], [1.0, -1.0, 1.0, -1.0]])
    scores = inputs + seeds + mixed
    means = scores.mean(axis=1)
    errors = errors_of([Seeds(means, (scores - means[:, None]) / 4)], 4)
    of_inputs = scores.mean(axis=0).var(ddof=1) / 4
    mean_square_of_mixed = (mixed**2).sum() / (2 * 3)
    assert errors.inputs == pytest.approx(of_inputs)
    assert errors.seeds == pytest.approx((4 * means.var(ddof=1) - mean_square_of_mixed) / 4 / 3)
    assert (errors.degrees_of_inputs, errors.degrees_of_seeds) == (3, pytest.approx(2))


def test_independent_trainings_add_their_variances_and_degrees_of_freedom():
    one = Seeds(np.array([0.1, 0.2, 0.3]), np.zeros((3, 10)))
    errors = errors_of([one, one], 10)
    assert errors.seeds == pytest.approx(2 * 0.01 / 3)
    assert errors.degrees_of_seeds == pytest.approx(4)
    assert errors.t == pytest.approx(2.776, abs=1e-3)


def test_a_reach_is_the_mean_of_both_t_weighted_by_the_variances():
    assert Errors(0.01, 0.03, 1e9, 2).t == pytest.approx((1.96 + 3 * 4.303) / 4, rel=1e-3)


def test_an_effective_count_is_the_number_of_independent_answers():
    variance = 0.3 * 0.7 / 500
    assert effective_count(0.3, Errors(variance, 0.0, 1e9), 500) == pytest.approx(500)
    assert effective_count(0.3, Errors(0.0, variance, 499, 2), 500) == pytest.approx(500 * (1.96 / 4.303) ** 2, rel=1e-3)
    assert effective_count(0.0, Errors(0.0, 0.0, 9), 10) == 10


def test_holms_correction_by_value():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([0.03]) == [0.03]
    assert holm([]) == []
