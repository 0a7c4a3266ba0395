"""Agreement of two raters by value, against scikit-learn, and its bootstrap interval."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from compositional.scoring.agreement import agreement

Y, N = True, False


def test_agreement_by_value():
    """20 both yes, 5 only the first, 10 only the second, 15 both no: Cohen's kappa is (0.7 - 0.5) / (1 - 0.5)."""
    first = [Y] * 25 + [N] * 25
    second = [Y] * 20 + [N] * 5 + [Y] * 10 + [N] * 15
    found = agreement(first, second, range(50))
    assert found.questions == 50
    assert (found.first_yes, found.second_yes, found.observed, found.expected) == pytest.approx((0.5, 0.6, 0.7, 0.5))
    assert found.kappa == pytest.approx(0.4)
    assert found.interval.low < 0.4 < found.interval.high
    assert found.interval.mean == found.kappa


def test_kappa_is_that_of_scikit_learn_whatever_the_shares_of_yes():
    generator = np.random.default_rng(0)
    for share in (0.1, 0.5, 0.9):
        first = list(generator.random(80) < share)
        second = list(generator.random(80) < 0.3)
        assert agreement(first, second, range(80), 10).kappa == pytest.approx(cohen_kappa_score(first, second))


@pytest.mark.parametrize(
    ("first", "second", "kappa"),
    [([Y, N], [Y, N], 1.0), ([Y, N], [N, Y], -1.0), ([Y, N, N], [Y, Y, Y], 0.0), ([Y, Y], [Y, Y], None)],
)
def test_extremes(first, second, kappa):
    found = agreement(first, second, range(len(first)), 200)
    assert found.kappa == kappa
    assert (found.interval is None) == (kappa is None)


def test_a_rater_who_always_gives_one_answer_has_a_kappa_and_an_interval_of_exactly_0():
    found = agreement([Y, N, N] * 30, [Y] * 90, range(90))
    assert (found.kappa, found.interval.low, found.interval.high) == (0, 0, 0)
    assert found.observed == pytest.approx(found.expected) == pytest.approx(1 / 3)


def test_the_interval_has_the_width_of_the_large_sample_formula():
    generator = np.random.default_rng(1)
    first = generator.random(400) < 0.5
    second = np.where(generator.random(400) < 0.8, first, ~first)
    found = agreement(list(first), list(second), range(400), 4000)
    error = np.sqrt(found.observed * (1 - found.observed) / 400) / (1 - found.expected)
    assert found.interval.high - found.interval.low == pytest.approx(2 * 1.96 * error, rel=0.08)


def test_questions_of_a_group_are_resampled_together_so_that_copies_do_not_narrow_the_interval():
    generator = np.random.default_rng(2)
    first, second = generator.random((2, 60)) < 0.5
    alone = agreement(list(first), list(second), range(60), 1000, 3).interval
    copied = agreement(list(np.repeat(first, 4)), list(np.repeat(second, 4)), list(np.repeat(range(60), 4)), 1000, 3).interval
    assert copied == pytest.approx(alone)
    as_if_apart = agreement(list(np.repeat(first, 4)), list(np.repeat(second, 4)), range(240), 1000, 3).interval
    assert as_if_apart.high - as_if_apart.low < 0.7 * (alone.high - alone.low)


def test_equal_seeds_give_equal_intervals():
    first, second = np.random.default_rng(3).random((2, 50)) < 0.5
    one, again, other = (agreement(list(first), list(second), range(50), 100, seed).interval for seed in (0, 0, 1))
    assert one == again
    assert one != other


@pytest.mark.parametrize(("first", "second", "groups"), [([Y], [Y, N], [0]), ([Y], [Y], [0, 1]), ([], [], [])])
def test_answers_that_do_not_belong_together_are_an_error(first, second, groups):
    with pytest.raises(ValueError, match="expected equal lengths, at least 1"):
        agreement(first, second, groups)
