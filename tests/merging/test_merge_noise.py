"""What is zero has no vote and no direction: merges depend on neither the adapters' order nor the unit of their updates."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch

from compositional.adapters.lora import LoraAdapter, LoraFactors
from compositional.merging import find_strategy, merge, strategies

PATH = "model.layers.0.mlp.up_proj"
D_IN, D_OUT, RANK = 48, 40, 4
# Random numbers are drawn by the adapters' places; slerp is of two adapters.
BY_PLACE, OF_TWO = ("dare", "peft_dare_linear", "peft_dare_ties"), ("slerp",)
DATA_FREE = [name for name in strategies() if not find_strategy(name).learns]


def factors(seed: int, rows: slice = slice(None), columns: slice = slice(None), size: float = 1.0) -> LoraFactors:
    """A random update, zero outside of the given rows and columns of ΔW."""
    generator = torch.Generator().manual_seed(seed)
    A, B = torch.zeros(RANK, D_IN), torch.zeros(D_OUT, RANK)
    A[:, columns] = torch.randn(RANK, D_IN, generator=generator)[:, columns]
    B[rows] = size * torch.randn(D_OUT, RANK, generator=generator)[rows]
    return LoraFactors(A, B, 0.5)


UPDATES = {
    "none is zero": [factors(0), factors(1), factors(2)],
    "one is zero": [factors(0), factors(1), factors(2, size=0.0)],
    "one is absent": [factors(0), factors(1), None],
    "outputs that have nothing in common": [factors(0, slice(0, 13)), factors(1, slice(13, 26)), factors(2, slice(26, None))],
    "inputs that have nothing in common": [
        factors(0, columns=slice(0, 16)),
        factors(1, columns=slice(16, 32)),
        factors(2, columns=slice(32, None)),
    ],
    "outputs orthogonal to those of the others": [factors(0), factors(1), None],  # the third is made below
}


def _orthogonal_to(others: list[LoraFactors]) -> LoraFactors:
    """An update whose columns are orthogonal to those of the others, up to the rounding of float32."""
    basis = torch.linalg.qr(torch.cat([one.B for one in others], dim=1)).Q
    own = factors(2)
    return LoraFactors(own.A, own.B - basis @ (basis.T @ own.B), own.scaling)


UPDATES["outputs orthogonal to those of the others"][2] = _orthogonal_to([factors(0), factors(1)])


def adapters_of(updates: list[LoraFactors | None], unit: float = 1.0) -> list[LoraAdapter]:
    other = "model.layers.1.mlp.up_proj"  # an adapter updates at least one module
    return [
        LoraAdapter(f"a{number}", "base", {other: factors(9)} | ({PATH: _scaled(one, unit)} if one else {}))
        for number, one in enumerate(updates)
    ]


def _scaled(one: LoraFactors, unit: float) -> LoraFactors:
    return LoraFactors(one.A, one.B, unit * one.scaling)


@pytest.mark.parametrize("kind", UPDATES)
@pytest.mark.parametrize("strategy", [name for name in DATA_FREE if name not in BY_PLACE])
def test_the_order_of_the_adapters_changes_nothing(strategy, kind):
    updates, weights = UPDATES[kind], [0.8, 1.1, 0.6]
    if strategy in OF_TWO:
        updates, weights = updates[1:], weights[1:]
    adapters = adapters_of(updates)
    merged = [
        merge(strategy, [adapters[place] for place in order], [weights[place] for place in order]).factors[PATH].delta()
        for order in permutations(range(len(adapters)))
    ]
    for one in merged[1:]:
        assert (one - merged[0]).norm() < 1e-5 * merged[0].norm()


@pytest.mark.parametrize("kind", UPDATES)
@pytest.mark.parametrize("strategy", DATA_FREE)
def test_a_merge_of_updates_in_another_unit_is_the_merge_in_that_unit(strategy, kind):
    updates = UPDATES[kind][1:] if strategy in OF_TWO else UPDATES[kind]
    weights, unit = [0.8, 1.1, 0.6][: len(updates)], 2.0**-20
    one, other = (merge(strategy, adapters_of(updates, u), weights).factors[PATH].delta() for u in (1.0, unit))
    assert (other / unit - one).norm() < 1e-5 * one.norm()
