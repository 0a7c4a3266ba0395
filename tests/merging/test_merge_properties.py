"""What every merge's formula promises: linear in the weights, blind to the order, itself when merged with itself, in any unit."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from compositional.adapters.lora import LoraAdapter, LoraFactors
from compositional.merging import find_strategy, merge, strategies

pytestmark = pytest.mark.usefixtures("one_thread")
PATHS = ("model.layers.0.mlp.up_proj", "model.layers.1.mlp.up_proj")
D_IN, D_OUT, RANK = 7, 6, 2
DATA_FREE = [name for name in strategies() if not find_strategy(name).learns]  # what is learned has no such formula
# slerp is of two adapters.
OF_TWO = ("slerp",)
# ΔW = Σ w_i f(ΔW_i), with nothing cut off. The others elect signs, interpolate by angle, calibrate by ratios, or merge the A's and
# the B's apart, each with the root of the weight.
LINEAR_IN_WEIGHTS = ("linear", "concat", "dare", "peft_cat", "peft_svd")
# Random masks are drawn by an adapter's place.
BY_PLACE = ("dare", "peft_dare_linear", "peft_dare_ties")
# An adapter with itself is that adapter again where nothing is left out: TIES and DARE must keep all entries (density 1). The
# others are no means: PEFT's merges of factors sum (√w A)(√w B) over all pairs, which is n times the update for n equal weights,
# and their TIES divides by n in A and in B. svc's mean is never above its alpha of 1, so that it calibrates nothing.
IDEMPOTENT = ("linear", "concat", "slerp", "ties", "dare", "knots", "svc", "peft_cat", "peft_svd")
# A merge of c ΔW_i is c times that of ΔW_i for c > 0. For c < 0, too, where no signs are elected: a sum of zero counts as positive.
SIGNLESS = ("linear", "concat", "slerp", "dare", "svc", "peft_cat", "peft_svd", "peft_linear", "peft_dare_linear")
TOLERANCE = 1e-4  # of the Frobenius norm, in float32

WEIGHTS = st.floats(-2, 2).map(lambda one: round(one, 3)).filter(lambda one: abs(one) > 0.05)
SHARES = st.lists(st.integers(1, 9), min_size=2, max_size=3)
SEEDS = st.integers(0, 2**31)


def test_every_strategy_that_these_tests_name_is_there():
    named = {*LINEAR_IN_WEIGHTS, *BY_PLACE, *IDEMPOTENT, *SIGNLESS, *OF_TWO}
    assert named <= set(DATA_FREE), "a strategy is named that is not there"


@st.composite
def adapters(draw: st.DrawFn, size: int | None = None) -> list[LoraAdapter]:
    """Random adapters of one rank; each updates one of two modules or both, and all of them the first."""
    generator = torch.Generator().manual_seed(draw(SEEDS))

    def factors() -> LoraFactors:
        A, B = torch.randn(RANK, D_IN, generator=generator), torch.randn(D_OUT, RANK, generator=generator)
        return LoraFactors(A, B, draw(st.sampled_from([0.25, 0.5, 1.0, 3.0])))

    count = size or draw(st.integers(1, 4))
    paths = [PATHS if draw(st.booleans()) else PATHS[:1] for _ in range(count)]
    return [LoraAdapter(f"a{number}", "base", {path: factors() for path in some}) for number, some in enumerate(paths)]


def options_of(strategy: str, density: float) -> dict[str, float]:
    """The share of entries that are kept, and a rank that cuts nothing off."""
    known = find_strategy(strategy).options
    return {name: value for name, value in (("density", density), ("rank", min(D_IN, D_OUT))) if name in known}


def merged(strategy: str, some: list[LoraAdapter], weights: list[float], density: float = 0.6) -> torch.Tensor:
    """The dense updates of both modules, one after the other; zero where the merge has none."""
    result = merge(strategy, some, weights, options_of(strategy, density)).factors
    return torch.cat([result[path].delta() if path in result else torch.zeros(D_OUT, D_IN) for path in PATHS])


def check_equal(found: torch.Tensor, expected: torch.Tensor, size: float) -> None:
    assert found.isfinite().all()
    assert (found - expected).norm() <= TOLERANCE * size


def size_of(some: list[LoraAdapter], weights: list[float]) -> float:
    """What rounding is relative to: sums can cancel."""
    parts = [
        abs(w) * factors.delta().norm().item() for one, w in zip(some, weights, strict=True) for factors in one.factors.values()
    ]
    return 10 * sum(parts)


@pytest.mark.parametrize("strategy", LINEAR_IN_WEIGHTS)
@given(data=st.data())
def test_a_sum_of_weights_gives_the_sum_of_the_merges(strategy, data):
    some = data.draw(adapters())
    one, other = (data.draw(st.lists(WEIGHTS, min_size=len(some), max_size=len(some))) for _ in range(2))
    factor = data.draw(WEIGHTS)
    both = [x + factor * y for x, y in zip(one, other, strict=True)]
    expected = merged(strategy, some, one) + factor * merged(strategy, some, other)
    check_equal(merged(strategy, some, both), expected, size_of(some, one) + abs(factor) * size_of(some, other))


@pytest.mark.parametrize("strategy", [name for name in DATA_FREE if name not in BY_PLACE])
@given(data=st.data())
def test_the_order_of_adapters_and_weights_changes_nothing(strategy, data):
    some = data.draw(adapters(2 if strategy in OF_TWO else None))
    weights = data.draw(st.lists(WEIGHTS.map(abs) if strategy in OF_TWO else WEIGHTS, min_size=len(some), max_size=len(some)))
    order = data.draw(st.permutations(range(len(some))))
    found = merged(strategy, [some[place] for place in order], [weights[place] for place in order])
    expected = merged(strategy, some, weights)
    check_equal(found, expected, size_of(some, weights) + expected.norm().item())


@pytest.mark.parametrize("strategy", IDEMPOTENT)
@given(data=st.data())
def test_an_adapter_that_is_merged_with_itself_is_itself(strategy, data):
    (adapter,) = data.draw(adapters(1))
    shares = data.draw(SHARES)[: 2 if strategy in OF_TWO else None]
    weights = [share / sum(shares) for share in shares]
    found = merged(strategy, [adapter] * len(weights), weights, density=1.0)
    check_equal(found, merged("linear", [adapter], [1.0]), size_of([adapter], [1.0]))


@pytest.mark.parametrize("strategy", DATA_FREE)
@given(data=st.data())
def test_updates_in_another_unit_give_the_merge_in_that_unit(strategy, data):
    some = data.draw(adapters(2 if strategy in OF_TWO else None))
    weights = data.draw(st.lists(WEIGHTS.map(abs) if strategy in OF_TWO else WEIGHTS, min_size=len(some), max_size=len(some)))
    unit = data.draw(st.sampled_from([2.0**-12, 0.5, 4.0, 2.0**10])) * data.draw(
        st.sampled_from([1, -1 if strategy in SIGNLESS else 1])
    )
    scaled = [
        replace(one, factors={path: replace(part, scaling=unit * part.scaling) for path, part in one.factors.items()})
        for one in some
    ]
    expected = unit * merged(strategy, some, weights)
    check_equal(merged(strategy, scaled, weights), expected, abs(unit) * size_of(some, weights) + expected.norm().item())


# PEFT's merges see only the product of a weight and a scaling. Of the others, ties and knots divide by the weights, slerp
# interpolates by them, and svc's ratios are of the updates without their weights.
@pytest.mark.parametrize("strategy", ["linear", "concat", "dare", *(name for name in DATA_FREE if name.startswith("peft_"))])
@given(data=st.data())
def test_a_scaling_of_one_update_is_a_weight_on_it(strategy, data):
    some = data.draw(adapters())
    weights = data.draw(st.lists(WEIGHTS, min_size=len(some), max_size=len(some)))
    place, factor = data.draw(st.integers(0, len(some) - 1)), data.draw(WEIGHTS)
    scaled, weighted = list(some), list(weights)
    scaled[place] = replace(
        some[place], factors={path: replace(one, scaling=factor * one.scaling) for path, one in some[place].factors.items()}
    )
    weighted[place] *= factor
    expected = merged(strategy, some, weighted)
    check_equal(merged(strategy, scaled, weights), expected, size_of(some, weighted) + expected.norm().item())


# slerp keeps the sum of the weights in it, and PEFT's merges of factors need a rank that all of them share.
@pytest.mark.parametrize("strategy", ["linear", "concat", "peft_cat", "peft_svd", "ties", "dare", "knots", "svc"])
@given(data=st.data())
def test_a_module_that_one_adapter_alone_updates_does_not_depend_on_the_others_updates(strategy, data):
    one, other, another = data.draw(adapters(3))
    one = replace(one, factors={PATHS[1]: one.factors[PATHS[0]]})
    other, another = (replace(each, factors={PATHS[0]: each.factors[PATHS[0]]}) for each in (other, another))
    weights = data.draw(st.lists(WEIGHTS, min_size=2, max_size=2))
    found, expected = (merged(strategy, [one, each], weights)[D_OUT:] for each in (other, another))
    check_equal(found, expected, size_of([one], weights[:1]))
