"""Means over inputs, sub-tasks and seeds: their intervals and tests by value."""

from __future__ import annotations

import numpy as np
import pytest

from compositional.scoring.bootstrap import ByInput, Resampler, Strata, Stratum, bootstrap_interval, differences, statistic


def strata_of(scores: dict[str, np.ndarray]) -> Strata:
    """Strata with inputs and trainings of their own."""
    return {
        name: Stratum(values, [f"{name} {number}" for number in range(values.shape[1])], name) for name, values in scores.items()
    }


def sharing_inputs(scores: dict[str, np.ndarray], training: str | None = None) -> Strata:
    """Strata with the same inputs, and with trainings of their own unless one is named."""
    return {
        name: Stratum(values, [str(number) for number in range(values.shape[1])], training or name)
        for name, values in scores.items()
    }


def random_scores(seed: int, shift: float = 0.0) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    return {name: 0.9 * generator.random((1, size)) + shift for name, size in (("a", 40), ("b", 160))}


def width(strata: Strata, resamples: int = 4000) -> float:
    interval = Resampler(resamples, 0).interval(strata)
    return interval.high - interval.low


# ---- the mean


def test_a_mean_gives_each_sub_task_the_same_weight_and_each_seed_of_it():
    strata = strata_of({"a": np.array([[1.0, 0.0], [0.0, 0.0]]), "b": np.array([[1.0] * 6])})
    assert statistic(strata) == pytest.approx((0.25 + 1) / 2)


def test_an_example_without_a_verdict_counts_nowhere():
    strata = strata_of({"a": np.array([[1.0, 0.0, np.nan, 1.0] * 20])})
    assert statistic(strata) == pytest.approx(2 / 3)
    assert np.nanmean(Resampler(2000, 0).draws(strata)) == pytest.approx(2 / 3, abs=0.02)
    judged = strata_of({"a": np.array([[1.0, 0.0, 1.0] * 20])})
    assert width(strata) == pytest.approx(width(judged), rel=0.08)


# ---- intervals


def test_the_interval_over_examples_is_that_of_a_stratum_with_one_seed():
    values = random_scores(0)["b"]
    inputs = [str(number) for number in range(160)]
    assert bootstrap_interval(list(values[0]), inputs, 300, 7) == Resampler(300, 7).interval(sharing_inputs({"": values}))


def test_an_interval_over_sub_tasks_is_that_of_their_mean():
    scores = random_scores(1)
    error = np.sqrt(sum(values.var(ddof=1) / values.size for values in scores.values())) / 2
    assert width(strata_of(scores)) == pytest.approx(2 * 1.96 * error, rel=0.06)


def test_outputs_of_one_input_move_together_so_that_copies_do_not_narrow_an_interval():
    values = random_scores(2)["b"]
    inputs = [str(number) for number in range(160)]
    alone = Resampler(1000, 3).interval({"": Stratum(values, inputs, "")})
    copied = Resampler(1000, 3).interval({"": Stratum(np.repeat(values, 3, axis=1), list(np.repeat(inputs, 3)), "")})
    assert (copied.low, copied.high) == pytest.approx((alone.low, alone.high))
    apart = {"": Stratum(np.repeat(values, 3, axis=1), [str(number) for number in range(480)], "")}
    assert width(apart) == pytest.approx((alone.high - alone.low) / np.sqrt(3), rel=0.08)


def test_strata_with_the_same_inputs_move_together():
    values = random_scores(3)["b"]
    same = sharing_inputs({"a": values, "b": values, "c": values})
    assert width(same) == pytest.approx(width(sharing_inputs({"a": values})))
    assert width(strata_of({"a": values, "b": values, "c": values})) == pytest.approx(width(same) / np.sqrt(3), rel=0.08)


def test_strata_may_share_some_inputs_only():
    values = random_scores(4)["b"]
    half = {
        "a": Stratum(values, [str(number) for number in range(160)], "a"),
        "b": Stratum(values, [str(number) for number in range(80)] + [f"other {number}" for number in range(80)], "b"),
    }
    apart = strata_of({"a": values, "b": values})
    assert width(apart) * 1.1 < width(half) < width(sharing_inputs({"a": values, "b": values})) * 0.95


SEEDS = np.array([[0.4], [0.5], [0.6]])


def test_few_seeds_have_students_t_and_n_minus_1():
    """Seeds with means 0.4, 0.5 and 0.6: a standard deviation of 0.1, 2 degrees of freedom, whose t is 4.30."""
    noise = np.random.default_rng(5).normal(0, 0.001, (1, 100))
    strata = sharing_inputs({"a": SEEDS + noise})
    assert width(strata, 20_000) / 2 == pytest.approx(4.303 * 0.1 / np.sqrt(3), rel=0.05)


def test_one_training_for_all_strata_has_one_draw_of_seeds():
    noise = np.random.default_rng(5).normal(0, 0.001, (1, 100))
    scores = dict.fromkeys("abc", SEEDS + noise)
    together, apart = sharing_inputs(scores, training="one"), sharing_inputs(scores)
    assert width(together, 20_000) / 2 == pytest.approx(4.303 * 0.1 / np.sqrt(3), rel=0.05)
    assert width(apart, 20_000) / 2 == pytest.approx(2.447 * 0.1 / 3, rel=0.05)  # 6 degrees of freedom


def test_equal_seeds_do_not_widen_an_interval_and_what_differs_by_example_only_is_counted_once():
    values = random_scores(6)["b"]
    alike = sharing_inputs({"a": np.repeat(values, 3, axis=0)})
    assert width(alike) == pytest.approx(width(sharing_inputs({"a": values})))
    generator = np.random.default_rng(7)
    widths = [width(sharing_inputs({"a": generator.normal(0.5, 0.1, (3, 100))}), 500) for _ in range(40)]
    assert np.median(widths) == pytest.approx(2 * 1.96 * 0.1 / np.sqrt(300), rel=0.1)


@pytest.mark.parametrize(("value", "low", "high"), [(0.0, 0.0, 0.0370), (1.0, 0.9630, 1.0), (0.25, 0.25, 0.25)])
def test_equal_scores_have_wilsons_interval_over_the_inputs_at_0_and_1(value, low, high):
    """Wilson's upper end for none of 100 is z² / (100 + z²)."""
    strata = sharing_inputs({name: np.full((2, 100), value) for name in "abc"})
    interval = Resampler(100, 0).interval(strata)
    assert (interval.mean, interval.low, interval.high) == pytest.approx((value, low, high), abs=1e-4)


def test_a_share_near_0_has_wilsons_interval_for_as_many_independent_answers():
    """3 yes of 300 inputs: Wilson's interval is 0.34 % to 2.90 %. The same 3 yes of one input: 1 yes of 100."""
    values = np.zeros((1, 300))
    values[0, :3] = 1
    interval = Resampler(100, 0).interval(sharing_inputs({"a": values}))
    assert (interval.low, interval.high) == pytest.approx((0.0034, 0.0290), rel=0.03)
    copied = Resampler(100, 0).interval({"a": Stratum(values, list(np.repeat(np.arange(100), 3).astype(str)), "a")})
    assert (copied.low, copied.high) == pytest.approx((0.0018, 0.0545), rel=0.05)


def test_one_input_says_nothing_of_others():
    interval = bootstrap_interval([0.25, 0.75], ["same", "same"], 100, 0)
    assert (interval.mean, interval.low, interval.high) == (0.5, 0.0, 1.0)
    one, other = sharing_inputs({"a": np.array([[0.2]])}), sharing_inputs({"a": np.array([[0.4]])})
    assert Resampler(100, 0).p_value(one, other) == 1.0


def judged_only(values: list[float], of: int = 100, seeds: int = 1) -> np.ndarray:
    """Scores of the first inputs, and NaN for the rest (seeds × inputs)."""
    return np.tile(np.pad(np.array(values), (0, of - len(values)), constant_values=np.nan), (seeds, 1))


@pytest.mark.parametrize(("judged", "low", "high"), [([1.0] * 3, 0.4385, 1.0), ([0.0] * 5, 0.0, 0.4345), ([0.0] * 20, 0.0, 0.1611)])
@pytest.mark.parametrize("seeds", [1, 3])
def test_inputs_without_a_verdict_do_not_count_in_wilsons_interval(judged, low, high, seeds):
    interval = Resampler(100, 0).interval(sharing_inputs({"a": judged_only(judged, seeds=seeds)}))
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=1e-4)


@pytest.mark.parametrize("count", [2, 6, 60])
def test_an_interval_is_the_same_with_and_without_the_inputs_that_have_no_verdict(count):
    values = list(np.random.default_rng(count).uniform(0.3, 0.7, count))
    alone = bootstrap_interval(values, [str(number) for number in range(count)], 1000, 0)
    found = Resampler(1000, 0).interval(sharing_inputs({"a": judged_only(values)}))
    assert (found.mean, found.low, found.high) == pytest.approx((alone.mean, alone.low, alone.high), rel=1e-12)


def test_p_values_are_the_same_with_and_without_the_inputs_that_one_row_has_no_verdict_on():
    one, other = np.random.default_rng(4).uniform(0, 1, (2, 1, 5)) + np.array([[[0.4]], [[0.0]]])
    alone = Resampler(2000, 0).p_value(sharing_inputs({"a": one}), sharing_inputs({"a": other}))
    more = np.random.default_rng(5).random((1, 95))
    partly = sharing_inputs({"a": np.hstack([one, np.full((1, 95), np.nan)])})
    whole = sharing_inputs({"a": np.hstack([other, more])})
    assert Resampler(2000, 0).p_value(partly, whole) == Resampler(2000, 0).p_value(whole, partly) == alone


@pytest.mark.parametrize(("count", "expected"), [(300, 300), (6, 6.23), (2, 2.03)])
def test_a_stratum_with_few_verdicts_is_not_worth_the_inputs_of_others(count, expected):
    """Where 6 of 300 have most of the variance, it has the degrees of freedom of 6.23."""
    found = ByInput.of(sharing_inputs({"a": judged_only([0.5] * 300, 300), "b": judged_only([0.5] * count, 300)}))
    assert found.size == pytest.approx(expected, rel=0.01)
    assert found.errors().degrees_of_inputs == found.size - 1


def test_a_seed_with_few_verdicts_is_not_worth_the_inputs_of_others():
    scores = np.vstack([judged_only([0.5] * 300, 300), judged_only([0.5] * 6, 300)])
    assert ByInput.of(sharing_inputs({"a": scores})).size == pytest.approx(6.23, rel=0.01)


def test_strata_without_missing_scores_are_worth_their_number_of_inputs_whatever_they_share():
    values = random_scores(4)["b"]
    half = [str(number) for number in range(80)] + [f"other {number // 2}" for number in range(80)]
    few = Stratum(values[:, :3], ["0", "1", "another"], "c")
    strata = {"a": Stratum(values, [str(number) for number in range(160)], "a"), "b": Stratum(values, half, "b"), "c": few}
    assert ByInput.of(strata).size == 201


def test_a_stratum_with_one_verdict_says_nothing_of_others():
    strata = sharing_inputs({"a": judged_only([0.5] * 100), "b": judged_only([1.0])})
    interval = Resampler(100, 0).interval(strata)
    assert (interval.mean, interval.low, interval.high) == (0.75, 0.0, 1.0)
    assert Resampler(100, 0).p_value(strata, sharing_inputs({name: np.zeros((1, 100)) for name in "ab"})) == 1.0


# ---- tests


def test_a_paired_test_sees_a_small_shift_that_intervals_hide_and_nothing_between_equals():
    one, other = strata_of(random_scores(3)), strata_of(random_scores(3, shift=0.001))
    resampler = Resampler(1000, 0)
    first, second = resampler.interval(one), resampler.interval(other)
    assert first.low < second.mean < first.high
    assert resampler.p_value(other, one) == pytest.approx(2 / 1001)
    assert resampler.p_value(one, one) == 1.0
    noise = {name: values + np.random.default_rng(4).normal(0, 0.3, values.shape) for name, values in random_scores(3).items()}
    assert resampler.p_value(one, strata_of(noise)) > 0.05


@pytest.mark.parametrize("resamples", [50, 1000])
def test_a_p_value_is_at_least_2_of_the_resamples_and_1(resamples):
    resampler = Resampler(resamples, 0)
    assert resampler.least_p == 2 / (resamples + 1)
    zeros, ones = (sharing_inputs({"a": np.full((1, 50), value)}) for value in (0.0, 1.0))
    assert resampler.p_value(ones, zeros) == resampler.p_value(zeros, ones) == resampler.least_p


def test_few_seeds_count_in_tests_and_a_row_without_seeds_is_compared_with_each():
    values = random_scores(8)["b"]
    untrained = sharing_inputs({"a": values})
    alike, apart = (sharing_inputs({"a": values + 0.05 + spread * (SEEDS - 0.5)}) for spread in (0, 1))
    assert Resampler(1000, 0).p_value(alike, untrained) == pytest.approx(2 / 1001)
    # A difference of 0.05 with a standard error of 0.1 / √3: t is 0.87, and p 0.48.
    assert Resampler(4000, 0).p_value(apart, untrained) == pytest.approx(0.48, abs=0.04)


def test_seeds_of_two_rows_are_paired_and_the_coarser_training_applies():
    values = random_scores(9)["b"]
    own = sharing_inputs(dict.fromkeys("ab", values + SEEDS - 0.5))
    shared = sharing_inputs(dict.fromkeys("ab", values + SEEDS - 0.5 + 0.01), training="one")
    assert Resampler(1000, 0).p_value(shared, own) == pytest.approx(2 / 1001)
    for pair in ((own, shared), (shared, own)):
        assert {one.training for one in differences(*pair).values()} == {"one"}


def test_rows_of_other_examples_are_not_compared():
    values = random_scores(9)["b"]
    with pytest.raises(ValueError, match="expected the same examples"):
        differences(sharing_inputs({"a": values}), strata_of({"a": values}))


def test_rows_without_a_common_verdict_are_not_told_apart():
    one = sharing_inputs({"a": np.array([[1.0, np.nan] * 10])})
    other = sharing_inputs({"a": np.array([[np.nan, 0.0] * 10])})
    assert Resampler(100, 0).p_value(one, other) == 1.0
