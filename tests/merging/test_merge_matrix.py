"""Every strategy that needs no data, in every setting: the values on disk are its formula's on dense matrices, or PEFT's."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from itertools import count, cycle, product
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from peft import PeftModel

import compositional
from compositional.adapters.lora import LoraAdapter
from compositional.adapters.peft_folder import read_adapter, write_adapter
from compositional.core.errors import UserError
from compositional.merging import find_strategy, merge, strategies
from helpers import ARCHITECTURES
from helpers.formulas import slerp_by_hand, sum_by_hand, svc_by_hand
from helpers.merging import peft_model_with_adapters, saved_adapters

pytestmark = pytest.mark.usefixtures("one_thread")
Matrices = dict[str, torch.Tensor]  # by module path

DENSITY = 0.6  # one half would hide a mask that is its own opposite
ALPHAS = (16, 6, 5)
FULL = 64  # no module of the tiny models has a higher rank
RANKS = {"equal ranks": (4, 4, 4), "unequal ranks": (4, 2, 3)}
WEIGHTS = {
    "two": [0.8, 1.1],
    "two, one subtracted": [1.0, -0.7],
    "three": [0.8, 1.1, 0.6],
    "three, one subtracted": [1.0, -0.7, 0.4],
}


def needs_no_data(strategy: str) -> bool:
    return not find_strategy(strategy).learns


DATA_FREE = [strategy for strategy in strategies() if needs_no_data(strategy)]


@dataclass(frozen=True)
class Case:
    """One cell of the matrix: what is merged, and its updates by module path in float64, by this file's own multiplication."""

    strategy: str
    weights: list[float]
    ranks: tuple[int, ...]
    names: list[str]
    folder: Path
    model: PeftModel
    updates: dict[str, list[torch.Tensor]]

    def merged(self, **options: float) -> LoraAdapter:
        options |= {"density": DENSITY} if "density" in find_strategy(self.strategy).options else {}
        return merge(self.strategy, [read_adapter(self.folder / name) for name in self.names], self.weights, options)


@pytest.fixture(scope="module")
def case(tiny_models, tmp_path_factory) -> Callable[[str, list[float], str, bool, str], Case]:
    """Cases of adapters that PEFT wrote, three per ranks, kind of scaling and architecture."""

    @cache
    def stored(ranks: str, rslora: bool, architecture: str) -> tuple[Path, PeftModel, dict[str, list[torch.Tensor]]]:
        settings = [{"r": r, "lora_alpha": a, "use_rslora": rslora} for r, a in zip(RANKS[ranks], ALPHAS, strict=True)]
        model = peft_model_with_adapters(tiny_models[architecture], settings)
        for name, parameter in model.named_parameters():
            if "lora_" in name:  # products of such numbers are exact in float32: no sign or cut depends on rounding
                parameter.data = (parameter.data * 2048).round() / 2048
        folder = tmp_path_factory.mktemp("adapters")
        saved_adapters(model, len(settings), folder)
        updates: dict[str, list[torch.Tensor]] = {}
        for path, module in model.get_base_model().named_modules():
            for number, (r, alpha) in enumerate(zip(RANKS[ranks], ALPHAS, strict=True)):
                if hasattr(module, "lora_A"):
                    A, B = (getattr(module, kind)[f"a{number}"].weight.detach().double() for kind in ("lora_A", "lora_B"))
                    updates.setdefault(path, []).append(alpha / (math.sqrt(r) if rslora else r) * B @ A)
        return folder, model, updates

    def make(strategy: str, weights: list[float], ranks: str, rslora: bool, architecture: str) -> Case:
        (folder, model, updates), n = stored(ranks, rslora, architecture), len(weights)
        first = {path: deltas[:n] for path, deltas in updates.items()}
        return Case(strategy, weights, RANKS[ranks][:n], [f"a{number}" for number in range(n)], folder, model, first)

    return make


def elected(updates: list[torch.Tensor], weights: list[float]) -> torch.Tensor:
    """λ Σ w_i ΔW_i' / Σ |w_i| over what agrees with the sign of Σ w_i ΔW_i', ΔW_i' being the largest entries of ΔW_i."""
    kept = []
    for update in updates:
        sizes, number = update.abs().flatten().sort(descending=True).values, math.floor(DENSITY * update.numel())
        assert sizes[number - 1] > 1.000000001 * sizes[number], "two entries of one size at the cut: what is right is undecided"
        kept.append(torch.where(update.abs() >= sizes[number - 1], update, 0.0))
    sign = torch.sign(sum_by_hand(kept, weights))
    agree = [(w * part * sign > 0).double() for w, part in zip(weights, kept, strict=True)]
    total = sum(w * part * a for w, part, a in zip(weights, kept, agree, strict=True))
    share = sum(abs(w) * a for w, a in zip(weights, agree, strict=True))
    return sum(map(abs, weights)) * torch.where(share > 0, total / share, 0.0)


def knots(updates: list[torch.Tensor], weights: list[float]) -> torch.Tensor:
    U, S, Vh = torch.linalg.svd(torch.cat(updates, dim=1), full_matrices=False)
    rank = int((1e-9 * S[0] < S).sum())
    return U[:, :rank] * S[:rank] @ elected(list(Vh[:rank].split(updates[0].shape[1], dim=1)), weights)


def by_formula(formula: Callable[[list[torch.Tensor], list[float]], torch.Tensor], case: Case) -> Matrices:
    return {path: formula(updates, case.weights).double() for path, updates in case.updates.items()}


def entries_of_one_pattern_each(values: torch.Tensor, patterns: list[torch.Tensor]) -> tuple[torch.Tensor, float]:
    """The patterns' entries that the values are, and the share that all adapters dropped (the first pattern)."""
    choices = torch.stack(patterns).double()
    pattern = (choices - values).abs().argmin(dim=0, keepdim=True)
    entries = choices.gather(0, pattern)[0]
    assert (entries - values).abs().max() < 1e-5 * choices.abs().max()
    return entries, (pattern == 0).double().mean().item()


def dare(case: Case) -> Matrices:
    """Not cut to a rank, each entry is the sum over some of the adapters, divided by the density."""
    expected, dropped = {}, []
    for path, factors in case.merged(rank=FULL).factors.items():
        weighted = [weight * update / DENSITY for weight, update in zip(case.weights, case.updates[path], strict=True)]
        patterns = [sum_by_hand(weighted, kept) for kept in product((0, 1), repeat=len(weighted))]
        expected[path], share = entries_of_one_pattern_each(factors.scaling * factors.B @ factors.A, patterns)
        dropped.append(share)
    assert abs(sum(dropped) / len(dropped) - (1 - DENSITY) ** len(case.weights)) < 0.02
    return expected


NUMBERS = count()


def pefts_factors(kind: str, case: Case) -> dict[str, tuple[torch.Tensor, torch.Tensor, float]]:
    """A, B and scaling of PEFT's merge; its name is new each time, for PEFT keeps what it has under a known one."""
    name = f"merged{next(NUMBERS)}"
    case.model.add_weighted_adapter(case.names, case.weights, name, combination_type=kind, density=DENSITY)
    modules = {path: case.model.get_base_model().get_submodule(path) for path in case.updates}
    factors = {
        path: (m.lora_A[name].weight.detach(), m.lora_B[name].weight.detach(), m.scaling[name]) for path, m in modules.items()
    }
    case.model.delete_adapter(name)
    return factors


def by_peft(kind: str, case: Case) -> Matrices:
    return {path: scaling * B.double() @ A.double() for path, (A, B, scaling) in pefts_factors(kind, case).items()}


def dare_by_peft(kind: str, case: Case) -> Matrices:
    """Each entry of A and B is what PEFT makes of it when some of the adapters have it and the others dropped it."""
    theirs = []
    for kept in product((0, 1), repeat=len(case.weights)):
        turns = cycle(kept)  # PEFT prunes the adapters' tensors in their order, for each A and each B
        with patch("peft.utils.merge_utils.random_pruning", lambda x, density, rescale, turns=turns: x * next(turns) / density):
            theirs.append(pefts_factors(kind, case))
    expected, dropped = {}, []
    for path, factors in case.merged().factors.items():
        A, share_of_A = entries_of_one_pattern_each(factors.A, [one[path][0] for one in theirs])
        B, share_of_B = entries_of_one_pattern_each(factors.B, [one[path][1] for one in theirs])
        expected[path] = theirs[0][path][2] * B @ A
        dropped += [share_of_A, share_of_B]
    assert abs(sum(dropped) / len(dropped) - (1 - DENSITY) ** len(case.weights)) < 0.05
    return expected


REFERENCES: dict[str, Callable[[Case], Matrices]] = {
    "linear": partial(by_formula, sum_by_hand),
    "concat": partial(by_formula, sum_by_hand),
    "slerp": partial(by_formula, slerp_by_hand),
    "svc": partial(by_formula, svc_by_hand),
    "ties": partial(by_formula, elected),
    "knots": partial(by_formula, knots),
    "dare": dare,
    **{f"peft_{kind}": partial(by_peft, kind) for kind in ("linear", "cat", "svd", "ties")},
    **{f"peft_{kind}": partial(dare_by_peft, kind) for kind in ("dare_linear", "dare_ties")},
}
CUT = ("ties", "dare")  # to the sum of the ranks, by SVD
OF_FACTORS = ("peft_linear", "peft_ties", "peft_dare_linear", "peft_dare_ties")


def refusal(case: Case) -> str | None:
    """How the one line begins that says what can't be merged, if it can't."""
    if case.strategy == "slerp" and len(case.weights) > 2:
        return "slerp merges two adapters, 3 are given: use linear"
    if case.strategy == "slerp" and min(case.weights) < 0:
        return "slerp takes weights that say how far to go from one to the other; [1.0, -0.7] can't: use linear"
    if case.strategy in OF_FACTORS and len(set(case.ranks)) > 1:
        names = ", ".join(case.names)
        return f"{case.strategy} merges factors, so all ranks must be equal; {names} have ranks {sorted(set(case.ranks))}: use "
    return None


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("rslora", [False, True], ids=["alpha unlike r", "rsLoRA"])
@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("strategy", [strategy for strategy in DATA_FREE if strategy in REFERENCES])
def test_a_merge_has_the_right_values_on_disk_or_is_refused_in_one_line(
    strategy, weights, ranks, rslora, architecture, case, tmp_path
):
    this = case(strategy, WEIGHTS[weights], ranks, rslora, architecture)
    if start := refusal(this):
        with pytest.raises(UserError) as caught:
            this.merged()
        assert str(caught.value).startswith(start)
        assert "\n" not in str(caught.value)
        if strategy in OF_FACTORS:
            with pytest.raises(ValueError, match="same r value"):
                REFERENCES[strategy](this)
        return
    write_adapter(tmp_path / "merged", this.merged(), "float32")
    ours, expected = read_adapter(tmp_path / "merged").factors, REFERENCES[strategy](this)
    assert ours.keys() == expected.keys()
    assert len(expected) == 6
    rank = sum(this.ranks) if strategy in CUT else FULL
    for path, factors in ours.items():
        check_is_best_of_rank(factors.scaling * factors.B.double() @ factors.A.double(), expected[path], rank)


def check_is_best_of_rank(matrix: torch.Tensor, whole: torch.Tensor, rank: int) -> None:
    """A projection of the whole to a rank, and as near as any (Eckart-Young): where singular values are alike, several are."""
    basis, lost = torch.linalg.svd(matrix).U[:, :rank], torch.linalg.svdvals(whole)[rank:].norm()
    assert (matrix - basis @ basis.T @ whole).norm() < 1e-5 * whole.norm()
    assert (matrix - whole).norm() - lost < 1e-5 * whole.norm()


@pytest.mark.parametrize("strategy", DATA_FREE)
def test_a_strategy_that_needs_no_data_has_a_reference(strategy):
    if strategy not in REFERENCES:
        pytest.skip(f"{strategy} has no reference: its values are not compared")


def test_references_are_of_strategies():
    assert REFERENCES.keys() <= set(DATA_FREE)


FROM_DISK = """
import sys
from pathlib import Path
from compositional.adapters.peft_folder import read_adapter, write_adapter
from compositional.merging import merge
for strategy in sys.argv[2:]:
    adapters = [read_adapter(Path(sys.argv[1]) / name) for name in ("a0", "a1")]
    write_adapter(Path(sys.argv[1]) / strategy, merge(strategy, adapters, []), "float16")
print(sorted({"transformers", "peft", "accelerate", "huggingface_hub"} & sys.modules.keys()))
"""


@pytest.mark.slow
def test_a_merge_from_disk_to_disk_needs_no_base_model(tiny_models, tmp_path):
    model = peft_model_with_adapters(tiny_models["llama"], [{"r": 2, "lora_alpha": 3}] * 2)
    saved_adapters(model, 2, tmp_path)
    for name in ("a0", "a1"):
        path = tmp_path / name / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": "nobody/has-this-model"}))
    command = [sys.executable, "-c", FROM_DISK, str(tmp_path), *DATA_FREE]
    environment = os.environ | {"PYTHONPATH": str(Path(compositional.__file__).parents[1])}
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("[]\n", 0), done.stderr
    assert {read_adapter(tmp_path / strategy).base_model for strategy in DATA_FREE} == {"nobody/has-this-model"}
