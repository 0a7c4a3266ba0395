"""Means with percentile bootstrap intervals."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Interval:
    """A mean over examples and the ends of its 95 % interval."""

    mean: float
    low: float
    high: float


def bootstrap_interval(values: list[float], resamples: int, seed: int) -> Interval:
    """Mean of `values` with its 95 % percentile bootstrap interval (Efron and Tibshirani 1993, chapter 13)."""
    array = np.asarray(values, dtype=np.float64)
    generator = np.random.default_rng(seed)
    means = np.array([array[generator.integers(0, len(array), len(array))].mean() for _ in range(resamples)])
    low, high = np.percentile(means, [2.5, 97.5])
    return Interval(float(array.mean()), float(low), float(high))
