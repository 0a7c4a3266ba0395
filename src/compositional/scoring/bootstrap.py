"""Means over inputs, sub-tasks and seeds: their bootstrap intervals, and paired tests.

A table's row is made of strata (a sub-task with a model). Resampling draws *inputs*: examples with one input, in whatever stratum,
move together. The seeds of a training are few, so their variance is added as Student's t.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import compress
from zlib import crc32

import numpy as np

from compositional.scoring.intervals import Errors, Interval, Seeds, effective_count, errors_of, wilson

# A mean is near 0 or 1 within so many standard errors of it: a share with fewer than ten yes or ten no.
_NEAR = math.sqrt(10)


@dataclass(frozen=True, eq=False)
class Stratum:
    """A row's scores on a sub-task with a model.

    `scores` (seeds × examples) are NaN where there is no verdict. `inputs` (examples) name each example's input. `training` names
    what the seeds are of: strata with the same one share each seed's training.
    """

    scores: np.ndarray
    inputs: Sequence[str]
    training: str


Strata = Mapping[str, Stratum]


def statistic(strata: Strata) -> float:
    """The mean over strata of the mean over seeds and examples, as in the paper's tables."""
    return float(np.mean([np.nanmean(one.scores, axis=1).mean() for one in strata.values()]))


def differences(one: Strata, other: Strata) -> Strata:
    """The differences of two rows by example and seed; a row without seeds is the same for each seed of the other.

    The coarser of both rows' trainings applies. Raises ValueError for rows with other strata, examples or numbers of seeds.
    """
    if one.keys() != other.keys() or any(list(one[name].inputs) != list(other[name].inputs) for name in one):
        raise ValueError(f"rows of {', '.join(one)} and {', '.join(other)}: expected the same examples")
    coarser = min((one, other), key=lambda row: len({stratum.training for stratum in row.values()}))
    return {
        name: Stratum(stratum.scores - other[name].scores, stratum.inputs, coarser[name].training) for name, stratum in one.items()
    }


@dataclass(frozen=True, eq=False)
class ByInput:
    """The scores of strata, added up by input: of each stratum sums and counts (seeds × inputs), and the name of its training.

    `inputs` are those that any stratum has a score of. `named` has of each stratum (1 × all inputs) whether it names an input.
    """

    inputs: tuple[str, ...]
    sums: list[np.ndarray]
    counts: list[np.ndarray]
    trainings: list[str]
    named: list[np.ndarray]

    @classmethod
    def of(cls, strata: Strata) -> ByInput:
        """Strata need not have the same inputs."""
        inputs = tuple(sorted({name for one in strata.values() for name in one.inputs}))
        numbers = {name: number for number, name in enumerate(inputs)}
        sums, counts, named = [], [], []
        for one in strata.values():
            places, there = [numbers[name] for name in one.inputs], np.isfinite(one.scores)
            sums.append(_added(np.where(there, one.scores, 0.0), places, len(inputs)))
            counts.append(_added(there.astype(float), places, len(inputs)))
            named.append(_added(np.ones((1, len(places))), places, len(inputs)) > 0)
        scored = np.any([one.any(axis=0) for one in counts], axis=0)
        sums, counts = ([np.compress(scored, one, axis=1) for one in parts] for parts in (sums, counts))
        return cls(tuple(compress(inputs, scored)), sums, counts, [one.training for one in strata.values()], named)

    @property
    def says_nothing_of_others(self) -> bool:
        """Whether there is one input, or a stratum lacks scores so that it has, with some seed, none or those of one input."""
        scored = [(counts > 0).sum(axis=1).min() for counts in self.counts]
        lacking = any(least == 0 or least == 1 < named.sum() for least, named in zip(scored, self.named, strict=True))
        return len(self.inputs) == 1 or lacking

    @cached_property
    def size(self) -> float:
        """How many inputs the scores are worth: their number, or fewer where missing scores leave strata or seeds with few."""
        evenness = _evenness([counts > 0 for counts in self.counts]) / _evenness(self.named)
        return len(self.inputs) * min(1.0, evenness)

    def errors(self) -> Errors:
        """The errors of the statistic; not for scores of which `says_nothing_of_others` is true."""
        found: dict[str, Seeds] = {}
        for sums, counts, training in zip(self.sums, self.counts, self.trainings, strict=True):
            judged = counts.sum(axis=1, keepdims=True)
            means = sums.sum(axis=1, keepdims=True) / judged
            influences = (sums - means * counts) / judged / len(self.sums)
            earlier = found.get(training, Seeds(np.zeros(1), np.zeros(1)))
            found[training] = Seeds(earlier.means + means[:, 0] / len(self.sums), earlier.influences + influences)
        return errors_of(found.values(), self.size)

    def resampled(self, weights: np.ndarray) -> np.ndarray:
        """The statistic (resamples) with weights (resamples × inputs); NaN without any verdict."""
        with np.errstate(invalid="ignore"):
            means = [(weights @ sums.T) / (weights @ counts.T) for sums, counts in zip(self.sums, self.counts, strict=True)]
        return np.mean([of_seeds.mean(axis=1) for of_seeds in means], axis=0)


@dataclass
class Resampler:
    """Bootstrap resamples of inputs: the same for all rows with the same inputs, so that rows are paired.

    Sources: Efron and Tibshirani 1993, chapters 8 and 16; Field and Welsh 2007, "Bootstrapping clustered data".
    """

    resamples: int
    seed: int
    _weights: dict[tuple[str, ...], np.ndarray] = field(default_factory=dict)

    @property
    def least_p(self) -> float:
        """The least p value that so many resamples can give."""
        return 2 / (self.resamples + 1)

    def draws(self, strata: Strata) -> np.ndarray:
        """The statistic in each resample (resamples). Few inputs, and few seeds, are spread as their Student's t."""
        found = ByInput.of(strata)
        return self._draws(found, found.errors(), statistic(strata))

    def interval(self, strata: Strata) -> Interval:
        """The statistic of scores between 0 and 1, with its 95 % percentile interval, or Wilson's near 0 and 1."""
        found, mean = ByInput.of(strata), statistic(strata)
        if found.says_nothing_of_others:
            return Interval(mean, 0.0, 1.0)
        errors = found.errors()
        if min(mean, 1 - mean) <= _NEAR * math.sqrt(errors.total):
            return wilson(mean, effective_count(mean, errors, found.size))
        low, high = np.nanpercentile(self._draws(found, errors, mean), [2.5, 97.5])
        return Interval(mean, max(0.0, float(low)), min(1.0, float(high)))

    def interval_over_examples(self, values: Sequence[float], inputs: Sequence[str]) -> Interval:
        """The mean of the examples' `values` between 0 and 1, with its interval over their `inputs`."""
        return self.interval({"examples": Stratum(np.asarray(values, dtype=np.float64)[None], inputs, "")})

    def p_value(self, one: Strata, other: Strata) -> float:
        """Two-sided: how often the difference of two rows, paired by example, changes its sign. At least `least_p`."""
        paired = differences(one, other)
        found = ByInput.of(paired)
        if found.says_nothing_of_others:
            return 1.0
        drawn = self._draws(found, found.errors(), statistic(paired))
        # A resample without any verdict has no difference, and speaks for neither.
        tail = min((~(drawn > 0)).sum(), (~(drawn < 0)).sum())
        return min(1.0, (tail + 1) * self.least_p)

    def _draws(self, found: ByInput, errors: Errors, mean: float) -> np.ndarray:
        generator, degrees = np.random.default_rng([self.seed, crc32(b"few inputs and seeds")]), errors.degrees_of_inputs
        few = np.sqrt((degrees + 1) / generator.chisquare(degrees, self.resamples))
        drawn = mean + few * (found.resampled(self._weights_of(found.inputs)) - mean)
        if errors.seeds:
            drawn = drawn + math.sqrt(errors.seeds) * generator.standard_t(errors.degrees_of_seeds, self.resamples)
        return drawn

    def _weights_of(self, inputs: tuple[str, ...]) -> np.ndarray:
        """How often each input is in each resample (resamples × inputs)."""
        if inputs not in self._weights:
            generator, size = np.random.default_rng([self.seed, crc32("\n".join(inputs).encode())]), len(inputs)
            self._weights[inputs] = generator.multinomial(size, np.full(size, 1 / size), self.resamples).astype(float)
        return self._weights[inputs]


def bootstrap_interval(values: Sequence[float], inputs: Sequence[str], resamples: int, seed: int) -> Interval:
    """The interval of one set of examples, see `Resampler.interval_over_examples`."""
    return Resampler(resamples, seed).interval_over_examples(values, inputs)


def _added(values: np.ndarray, places: list[int], size: int) -> np.ndarray:
    """Values (seeds × examples) added up at the examples' places (seeds × size)."""
    return np.stack([np.bincount(places, weights=row, minlength=size) for row in values])


def _evenness(present: list[np.ndarray]) -> float:
    """How evenly inputs share the variance of a mean over strata and seeds: 1 for equal shares, less where few have most of it.

    `present` has of each stratum (seeds × inputs) whether there is a score. The number of inputs times this is the number of those
    with equal shares that have as many degrees of freedom. Source: Satterthwaite 1946, as in `errors_of`.
    """
    weights = sum((one / one.sum(axis=1, keepdims=True)).mean(axis=0) for one in present)
    shares = weights[weights > 0] ** 2
    return float(1 / (1 + shares.var() / shares.mean() ** 2))
