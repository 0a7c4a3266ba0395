"""How often 95 % intervals hold the truth, and how often tables are free of false marks, in simulations.

    python -m benchmarks.coverage

Each kind of data is drawn again and again with a known mean. Its interval comes from the project's own functions, and, beside it,
from a percentile bootstrap that takes all examples, strata and seeds as independent. Prints a Markdown table of the shares of
intervals that hold the mean.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from statistics import NormalDist

import numpy as np

from compositional.core.tables import aligned
from compositional.scoring.bootstrap import Resampler, Strata, Stratum, differences
from compositional.scoring.intervals import holm

RESAMPLES, SIGNIFICANT = 2000, 0.05
RESAMPLER = Resampler(RESAMPLES, 0)


@dataclass(frozen=True)
class Rows:
    """A kind of table row, and how its scores are drawn.

    There are `strata` with the same `inputs`, each with `outputs` examples of it, and `seeds`. Scores of one input correlate by
    `within` in a stratum and by `between` in two. `seed_sd` and `mixed_sd` are the standard deviations of a training's effect on
    all examples and on each, in those of the examples. `shared` is whether one training serves all strata. `mean` is the truth. If
    `yes_or_no`, scores are 1 for yes and 0 for no.
    """

    mean: float = 0.5
    inputs: int = 200
    outputs: int = 1
    strata: int = 1
    seeds: int = 1
    within: float = 0.0
    between: float = 0.0
    seed_sd: float = 0.0
    mixed_sd: float = 0.0
    shared: bool = False
    yes_or_no: bool = False

    def draw(self, generator: np.random.Generator) -> Strata:
        """The scores of one simulation."""
        common = generator.standard_normal((self.inputs, 1))
        of_all = generator.normal(0, self.seed_sd, (self.seeds, 1, 1))
        names = [f"input {number}" for number in range(self.inputs) for _ in range(self.outputs)]
        found = {}
        for stratum in range(self.strata):
            of_input = np.sqrt(self.between) * common
            of_input = of_input + np.sqrt(max(0.0, self.within - self.between)) * generator.standard_normal((self.inputs, 1))
            rest = np.sqrt(1 - max(self.within, self.between)) * generator.standard_normal((self.inputs, self.outputs))
            of_seeds = of_all if self.shared else generator.normal(0, self.seed_sd, (self.seeds, 1, 1))
            mixed = generator.normal(0, self.mixed_sd, (self.seeds, self.inputs, self.outputs))
            values = of_input + rest + of_seeds + mixed
            scores = (values < self._threshold).astype(float) if self.yes_or_no else self.mean + 0.1 * values
            training = "one" if self.shared else f"own {stratum}"
            found[f"stratum {stratum}"] = Stratum(scores.reshape(self.seeds, -1), names, training)
        return found

    @property
    def _threshold(self) -> float:
        """Below which an output is a yes."""
        return float(np.sqrt(1 + self.seed_sd**2 + self.mixed_sd**2) * NormalDist().inv_cdf(self.mean))


KINDS = {
    "independent examples": Rows(),
    "10 examples": Rows(inputs=10),
    "3 outputs for each input (correlation 0.9)": Rows(inputs=100, outputs=3, within=0.9),
    "3 strata share inputs (correlation 0.3)": Rows(strata=3, between=0.3),
    "9 strata share inputs (correlation 0.3)": Rows(strata=9, between=0.3),
    "3 strata, 3 seeds of a training each (sd 0.3)": Rows(strata=3, seeds=3, seed_sd=0.3),
    "3 strata, 3 seeds of one training for all (sd 0.3)": Rows(strata=3, seeds=3, seed_sd=0.3, shared=True),
    "1 stratum, 2 seeds (sd 0.3)": Rows(seeds=2, seed_sd=0.3),
    "1 stratum, 3 seeds that differ by example only": Rows(seeds=3, within=0.0, mixed_sd=1.0),
    "all at once: 3 outputs, 3 strata, 3 seeds, one training": Rows(
        inputs=100, outputs=3, strata=3, seeds=3, within=0.9, between=0.3, seed_sd=0.3, mixed_sd=0.3, shared=True
    ),
    "share of 0.3 %": Rows(0.003, inputs=250, yes_or_no=True),
    "share of 97 %": Rows(0.97, inputs=250, yes_or_no=True),
    "share of 1 %, 3 strata share inputs (correlation 0.3)": Rows(0.01, inputs=250, strata=3, between=0.3, yes_or_no=True),
    "share of 5 %, 3 seeds of a training (sd 0.2)": Rows(0.05, inputs=250, seeds=3, seed_sd=0.2, mixed_sd=0.5, yes_or_no=True),
}
# Tables of rows that are all equally good, compared with the first.
EQUAL_ROWS = {
    "1 comparison, 3 outputs for each input": (1, Rows(inputs=100, outputs=3, within=0.9)),
    "1 comparison, 3 strata with 3 seeds of one training": (1, Rows(strata=3, seeds=3, seed_sd=0.3, shared=True)),
    "19 comparisons": (19, Rows(inputs=100)),
}


def coverage(kind: Rows, simulations: int, interval: Callable[[Strata], tuple[float, float]]) -> float:
    """The share of simulations whose interval holds the mean."""
    held = 0
    for simulation in range(simulations):
        low, high = interval(kind.draw(np.random.default_rng([7, simulation])))
        held += low <= kind.mean <= high
    return held / simulations


def free_of_marks(comparisons: int, rows: Rows, simulations: int, p_values: Callable[[Strata, list[Strata]], list[float]]) -> float:
    """The share of tables of equally good rows in which no row is marked as better or worse than the first."""
    free = 0
    for simulation in range(simulations):
        generator = np.random.default_rng([8, simulation])
        first, *others = (rows.draw(generator) for _ in range(1 + comparisons))
        free += min(p_values(first, others)) >= SIGNIFICANT
    return free / simulations


def today(strata: Strata) -> tuple[float, float]:
    """The interval of the project."""
    found = RESAMPLER.interval(strata)
    return found.low, found.high


def today_marks(first: Strata, others: list[Strata]) -> list[float]:
    """The p values behind the marks of the project."""
    return holm([RESAMPLER.p_value(one, first) for one in others])


def as_if_independent(strata: Strata) -> tuple[float, float]:
    """The interval of a percentile bootstrap of examples and seeds, each stratum by itself."""
    low, high = np.percentile(_independent_draws(strata), [2.5, 97.5])
    return float(low), float(high)


def as_if_independent_marks(first: Strata, others: list[Strata]) -> list[float]:
    """p values of the same bootstrap, not corrected for their number."""
    drawn = [_independent_draws(differences(one, first)) for one in others]
    return [2 * (min((one <= 0).sum(), (one >= 0).sum()) + 1) / (RESAMPLES + 1) for one in drawn]


def _independent_draws(strata: Strata) -> np.ndarray:
    means = []
    for number, one in enumerate(strata.values()):
        seeds, examples = one.scores.shape
        by_seed = _shares(2 * number, examples) @ one.scores.T  # (resamples × seeds)
        means.append((by_seed * _shares(2 * number + 1, seeds)).sum(axis=1))
    return np.mean(means, axis=0)


@cache
def _shares(stream: int, size: int) -> np.ndarray:
    """The share that each of `size` things has in each resample (resamples × size)."""
    return np.random.default_rng([9, stream]).multinomial(size, np.full(size, 1 / size), RESAMPLES) / size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulations", type=int, default=1000, help="of each kind")
    count = parser.parse_args().simulations
    lines = [("95 % intervals that hold the mean", "as if independent %", "today %")]
    for name, kind in KINDS.items():
        found = (coverage(kind, count, interval) for interval in (as_if_independent, today))
        lines.append((name, *(f"{100 * share:.1f}" for share in found)))
    print(aligned(lines))
    lines = [("tables of equal rows without a false mark", "as if independent %", "today %")]
    for name, (comparisons, rows) in EQUAL_ROWS.items():
        found = (free_of_marks(comparisons, rows, count, p_values) for p_values in (as_if_independent_marks, today_marks))
        lines.append((name, *(f"{100 * share:.1f}" for share in found)))
    print(aligned(lines))


if __name__ == "__main__":
    main()
