"""How far two raters agree on yes and no, beyond what chance gives: Cohen's kappa with a bootstrap interval."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from compositional.scoring.intervals import Interval


@dataclass(frozen=True)
class Agreement:
    """Two raters' answers to the same questions; all figures but `questions` and `kappa` are shares between 0 and 1.

    `first_yes` and `second_yes` are their shares of yes, `observed` is the share of equal answers, and `expected` is the share that
    raters with these shares of yes have equal by chance. `kappa` is (observed - expected) / (1 - expected): 1 is full agreement, 0
    is chance. It is None where both always give the same one answer. `interval` is its 95 % bootstrap interval.
    """

    questions: int
    first_yes: float
    second_yes: float
    observed: float
    expected: float
    kappa: float | None
    interval: Interval | None


def agreement(
    first: Sequence[bool], second: Sequence[bool], groups: Sequence[Hashable], resamples: int = 1000, seed: int = 0
) -> Agreement:
    """Agreement of two raters by question, with `groups` (the input, say) whose questions are resampled together.

    Source: Cohen 1960, "A coefficient of agreement for nominal scales"; Efron and Tibshirani 1993, chapter 13, for the percentile
    interval. Resamples in which kappa is undefined are left out of the interval. Raises ValueError for lengths that differ, and
    without questions.
    """
    if not len(first) == len(second) == len(groups) > 0:
        raise ValueError(f"{len(first)}, {len(second)} answers and {len(groups)} groups: expected equal lengths, at least 1")
    # (groups × 4): how many questions of a group both, only the first, only the second, and neither answers with yes.
    numbers = {group: number for number, group in enumerate(dict.fromkeys(groups))}
    counts = np.zeros((len(numbers), 4))
    for one, other, group in zip(first, second, groups, strict=True):
        counts[numbers[group], 2 * (not one) + (not other)] += 1
    both, first_only, second_only, neither = counts.sum(axis=0) / len(first)
    kappa = float(_kappas(counts.sum(axis=0)[None])[0])
    weights = np.random.default_rng(seed).multinomial(len(numbers), np.full(len(numbers), 1 / len(numbers)), resamples)
    drawn = _kappas(weights @ counts)
    low, high = np.nanpercentile(drawn, [2.5, 97.5]) if np.isfinite(drawn).any() else (np.nan, np.nan)
    return Agreement(
        len(first),
        first_yes=float(both + first_only),
        second_yes=float(both + second_only),
        observed=float(both + neither),
        expected=float(_expected(np.array([[both, first_only, second_only, neither]]))[0]),
        kappa=None if np.isnan(kappa) else kappa,
        interval=None if np.isnan(kappa) else Interval(kappa, float(low), float(high)),
    )


def _expected(shares: np.ndarray) -> np.ndarray:
    """The share of equal answers by chance (tables), from the shares of both, first only, second only and neither (tables × 4)."""
    both, first_only, second_only, neither = shares.T
    first_yes, second_yes = both + first_only, both + second_only
    return first_yes * second_yes + (neither + second_only) * (neither + first_only)


def _kappas(counts: np.ndarray) -> np.ndarray:
    """Cohen's kappa (tables) of counts (tables × 4); NaN where both raters give one answer only, and the same."""
    total = counts.sum(axis=1)
    # In whole numbers, so that a rater who always gives one answer has a kappa of exactly 0.
    expected = _expected(counts)
    with np.errstate(invalid="ignore"):
        return ((counts[:, 0] + counts[:, 3]) * total - expected) / (total**2 - expected)
