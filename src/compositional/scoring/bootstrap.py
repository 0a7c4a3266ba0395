"""Means with percentile bootstrap intervals: of one set of examples, and over sub-tasks and seeds with paired tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from zlib import crc32

import numpy as np


@dataclass(frozen=True)
class Interval:
    """A mean and the ends of its 95 % interval."""

    mean: float
    low: float
    high: float


# Scores of a table's row: for each stratum (a sub-task with a model), an array (seeds × examples), NaN where there is no verdict.
Strata = Mapping[str, np.ndarray]


@dataclass
class Resampler:
    """Bootstrap resamples of the examples of strata, the same for every row of a table, and of each row's seeds.

    A statistic is the mean over strata of the mean over seeds and examples, as in the paper's tables. Source: Efron and Tibshirani
    1993, chapters 8 and 16: stratified resampling, and pairs resampled together.
    """

    resamples: int
    seed: int
    _examples: dict[tuple[str, int], np.ndarray] = field(default_factory=dict)

    def means(self, strata: Strata) -> np.ndarray:
        """The statistic in each resample (resamples)."""
        return np.mean([self._stratum_means(name, values) for name, values in strata.items()], axis=0)

    def interval(self, strata: Strata) -> Interval:
        """The statistic with its 95 % percentile interval."""
        low, high = np.nanpercentile(self.means(strata), [2.5, 97.5])
        return Interval(statistic(strata), float(low), float(high))

    def interval_over_examples(self, values: Sequence[float]) -> Interval:
        """The mean of the examples' `values` with its 95 % percentile interval."""
        return self.interval({"examples": np.asarray(values, dtype=np.float64)[None]})

    def p_value(self, one: Strata, other: Strata) -> float:
        """Two-sided: how often the difference of two rows, paired by example, changes its sign. At least 1 / (resamples + 1)."""
        differences = self.means(one) - self.means(other)
        # A resample without any verdict has no difference, and speaks for neither.
        tail = min((~(differences > 0)).sum(), (~(differences < 0)).sum())
        return min(1.0, 2 * (tail + 1) / (self.resamples + 1))

    def _stratum_means(self, name: str, values: np.ndarray) -> np.ndarray:
        seeds, examples = values.shape
        key = (name, examples)
        if key not in self._examples:
            self._examples[key] = self._weights(crc32(name.encode()), examples)
        weights, there = self._examples[key], np.isfinite(values)
        with np.errstate(invalid="ignore"):
            drawn = (weights @ np.where(there, values, 0).T) / (weights @ there.T)  # (resamples × seeds)
        if seeds == 1:
            return drawn[:, 0]
        return (drawn * self._weights(crc32(f"{name}, seeds".encode()), seeds)).sum(axis=1)

    def _weights(self, stream: int, size: int) -> np.ndarray:
        """The share that each of `size` things has in each resample (resamples × size)."""
        generator = np.random.default_rng([self.seed, stream])
        return generator.multinomial(size, np.full(size, 1 / size), self.resamples) / size


def statistic(strata: Strata) -> float:
    """The mean over strata of the mean over seeds and examples."""
    return float(np.mean([np.nanmean(values, axis=1).mean() for values in strata.values()]))


def bootstrap_interval(values: Sequence[float], resamples: int, seed: int) -> Interval:
    """Mean of `values` with its 95 % percentile bootstrap interval (Efron and Tibshirani 1993, chapter 13)."""
    return Resampler(resamples, seed).interval_over_examples(values)
