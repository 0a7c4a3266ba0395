"""Arithmetic of intervals and tests: Wilson's interval, the errors of a mean over inputs and seeds, Holm's correction."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

Z = NormalDist().inv_cdf(0.975)


@dataclass(frozen=True)
class Interval:
    """A mean and the ends of its 95 % interval."""

    mean: float
    low: float
    high: float


def wilson(mean: float, count: float) -> Interval:
    """The 95 % interval of a share between 0 and 1 of `count` independent answers, which has a width at 0 and at 1, too.

    Source: Wilson 1927, "Probable inference, the law of succession, and statistical inference".
    """
    centre = (mean + Z**2 / (2 * count)) / (1 + Z**2 / count)
    reach = Z / (1 + Z**2 / count) * math.sqrt(mean * (1 - mean) / count + Z**2 / (4 * count**2))
    low, high = 0.0 if mean == 0 else centre - reach, 1.0 if mean == 1 else centre + reach
    return Interval(mean, low, high)


@dataclass(frozen=True)
class Seeds:
    """What one training contributes to a statistic, with each of its seeds.

    `means` (seeds) are its contributions. `influences` (seeds × inputs) are how much of a contribution's deviation from its
    expectation each input is behind; they add up to 0 over the inputs.
    """

    means: np.ndarray
    influences: np.ndarray


@dataclass(frozen=True)
class Errors:
    """The variance of a statistic that `inputs` are behind, and the one that `seeds` are behind, with their degrees of freedom."""

    inputs: float
    seeds: float
    degrees_of_inputs: float
    degrees_of_seeds: float = math.inf

    @property
    def total(self) -> float:
        """The variance of the statistic."""
        return self.inputs + self.seeds

    @property
    def t(self) -> float:
        """How many standard errors a 95 % interval reaches: the mean of both Student's t, weighted by the variances.

        Source: Cochran and Cox 1957, "Experimental designs", 4.14: an approximation to the Behrens-Fisher distribution.
        """
        from scipy.stats import t

        of_inputs, of_seeds = t.ppf(0.975, [self.degrees_of_inputs, self.degrees_of_seeds])
        return float((self.inputs * of_inputs + self.seeds * of_seeds) / self.total) if self.total else float(of_inputs)


def errors_of(trainings: Iterable[Seeds], size: float) -> Errors:
    """The errors of a sum of independent trainings' contributions over the same inputs; `size`, above 1, is how many they count as.

    Both variances have n - 1 in the denominator. What differs by seed and by input at once is in the inputs' variance, so it is
    taken off the seeds'. Sources: Cochran 1977, chapter 6 (influences of a ratio); Searle et al. 1992, chapter 4 (two-way
    variance components); Satterthwaite 1946 (degrees of freedom of a sum of trainings).
    """
    of_input: np.ndarray | float = 0.0
    of_means, mixed, squares, few = 0.0, 0.0, 0.0, size / (size - 1)
    for one in trainings:
        seeds = len(one.means)
        average = one.influences.mean(axis=0)
        of_input = of_input + average
        if seeds > 1:
            of_mean = float(one.means.var(ddof=1)) / seeds
            of_means, squares = of_means + of_mean, squares + of_mean**2 / (seeds - 1)
            mixed += few * float(((one.influences - average) ** 2).sum()) / (seeds - 1) / seeds
    of_inputs, of_seeds = few * float((of_input**2).sum()), max(0.0, of_means - mixed)
    return Errors(of_inputs, of_seeds, size - 1.0, of_means**2 / squares if squares else math.inf)


def effective_count(mean: float, errors: Errors, inputs: float) -> float:
    """How many independent yes-or-no answers with this mean would have these errors; `inputs` for a mean of 0 or 1.

    Few degrees of freedom count as fewer answers. Source: Korn and Graubard 1998, "Confidence intervals for proportions with small
    expected number of positive counts".
    """
    return mean * (1 - mean) / errors.total * (Z / errors.t) ** 2 if errors.total else float(inputs)


def holm(p_values: Sequence[float]) -> list[float]:
    """p values adjusted for their number: 5 % of tables have any false positive among those below 0.05.

    Source: Holm 1979, "A simple sequentially rejective multiple test procedure".
    """
    adjusted, highest = [0.0] * len(p_values), 0.0
    for place, number in enumerate(sorted(range(len(p_values)), key=lambda number: p_values[number])):
        highest = max(highest, min(1.0, (len(p_values) - place) * p_values[number]))
        adjusted[number] = highest
    return adjusted
