"""Every merge strategy by value: against its formula on full matrices, against PEFT itself, or one clear refusal."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from compositional.adapters.lora import LoraAdapter, LoraFactors
from compositional.adapters.low_rank import compacted, truncated
from compositional.core.errors import UserError
from compositional.merging import find_strategy, merge, strategies
from helpers import ARCHITECTURES
from helpers.composing import SPANISH, mistake_in, store, two_of
from helpers.formulas import Deltas, slerp_by_hand, sum_by_hand, svc_by_hand
from helpers.merging import peft_model_with_adapters, random_adapter, saved_adapters

PATH = "model.layers.0.mlp.up_proj"


def trimmed(delta: torch.Tensor, density: float = 0.5) -> torch.Tensor:
    """The largest half of the entries, by sorting."""
    kept = sorted(range(delta.numel()), key=lambda place: -abs(delta.flatten()[place].item()))[: int(density * delta.numel())]
    result = torch.zeros(delta.numel())
    result[kept] = delta.flatten()[kept]
    return result.view(delta.shape)


def ties_by_hand(deltas: Deltas, weights: list[float]) -> torch.Tensor:
    """Entry by entry: the weighted mean of the trimmed updates that have the sign of their weighted sum."""
    parts = [trimmed(delta) for delta in deltas]
    result = torch.zeros_like(deltas[0])
    for row in range(result.shape[0]):
        for column in range(result.shape[1]):
            values = [(w, w * part[row, column].item()) for w, part in zip(weights, parts, strict=True)]
            sign = 1 if sum(value for _, value in values) >= 0 else -1
            agreeing = [(w, value) for w, value in values if value * sign > 0]
            if agreeing:
                mean = sum(value for _, value in agreeing) / sum(abs(w) for w, _ in agreeing)
                result[row, column] = sum(map(abs, weights)) * mean
    return result


def knots_by_hand(deltas: Deltas, weights: list[float]) -> torch.Tensor:
    U, S, Vh = torch.linalg.svd(torch.cat(deltas, dim=1), full_matrices=False)
    rank = int((1e-5 * S[0] < S).sum())
    bases = [Vh[:rank, number * deltas[0].shape[1] : (number + 1) * deltas[0].shape[1]] for number in range(len(deltas))]
    return U[:, :rank] * S[:rank] @ ties_by_hand(bases, weights)


BY_HAND: dict[str, Callable[[Deltas, list[float]], torch.Tensor]] = {
    "linear": sum_by_hand,
    "concat": sum_by_hand,
    "ties": ties_by_hand,
    "slerp": slerp_by_hand,
    "knots": knots_by_hand,
    "svc": svc_by_hand,
}


def adapters_of(count: int, ranks: tuple[int, ...] = (2, 3, 1)) -> list[LoraAdapter]:
    return [random_adapter(f"a{n}", ranks[n], (8.0, 0.5, 2.0)[n], n + 1) for n in range(count)]


@pytest.mark.parametrize("weights", [[0.5, 0.5], [1.0, 1.0], [0.3, 0.7], [1.0, -0.5], [0.5, 0.25, 0.25], [1.0, -0.5, 0.25]])
@pytest.mark.parametrize("strategy", BY_HAND)
def test_an_exact_merge_is_its_formula_on_the_updates(strategy, weights):
    adapters = adapters_of(len(weights))
    if strategy == "slerp" and (len(weights) > 2 or min(weights) < 0):
        with pytest.raises(UserError, match="use linear"):
            merge(strategy, adapters, weights)
        return
    expected = BY_HAND[strategy]([adapter.factors[PATH].delta() for adapter in adapters], weights)
    torch.testing.assert_close(merge(strategy, adapters, weights).factors[PATH].delta(), expected, rtol=1e-4, atol=1e-4)


PEFT_TYPES = {"peft_linear": "linear", "peft_cat": "cat", "peft_svd": "svd", "peft_ties": "ties"}
PEFT_DARE = {"peft_dare_linear": "dare_linear", "peft_dare_ties": "dare_ties"}
SETTINGS = {
    "equal ranks": [{"r": 4, "lora_alpha": 16}, {"r": 4, "lora_alpha": 6}, {"r": 4, "lora_alpha": 3}],
    "unequal ranks": [{"r": 4, "lora_alpha": 16}, {"r": 2, "lora_alpha": 6}, {"r": 3, "lora_alpha": 3}],
    "rsLoRA": [{"r": 4, "lora_alpha": alpha, "use_rslora": True} for alpha in (16, 6, 3)],
}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("weights", [[0.5, 0.5], [1.0, -0.7], [0.5, 0.3, -0.2]])
@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("strategy", PEFT_TYPES | PEFT_DARE)
def test_a_merge_of_pefts_semantics_is_pefts(strategy, settings, weights, architecture, tiny_models, tmp_path, monkeypatch):
    count = len(weights)
    peft_model = peft_model_with_adapters(tiny_models[architecture], SETTINGS[settings][:count])
    adapters = saved_adapters(peft_model, count, tmp_path)
    kind = (PEFT_TYPES | PEFT_DARE)[strategy]
    if settings == "unequal ranks" and strategy not in ("peft_cat", "peft_svd"):
        with pytest.raises(UserError, match="all ranks must be equal"):
            merge(strategy, adapters, weights)
        return
    if strategy in PEFT_DARE:  # the same entries are dropped on both sides: those of a small last digit
        keep = lambda tensor: (tensor.abs() * 1e4).int() % 2 == 0  # noqa: E731
        monkeypatch.setattr(
            "compositional.adapters.sparsity.drop_and_rescale", lambda tensor, density, _: tensor * keep(tensor) / density
        )
        monkeypatch.setattr(
            "peft.utils.merge_utils.random_pruning", lambda tensor, density, rescale: tensor * keep(tensor) / density
        )
    ours = merge(strategy, adapters, weights)
    names = [f"a{number}" for number in range(count)]
    peft_model.add_weighted_adapter(names, weights, "merged", combination_type=kind, density=0.5)
    checked = 0
    for path, module in peft_model.get_base_model().named_modules():
        if hasattr(module, "lora_A") and "merged" in module.lora_A:
            theirs = module.get_delta_weight("merged").detach()
            torch.testing.assert_close(ours.factors[path].delta(), theirs, rtol=1e-4, atol=1e-5)
            checked += 1
    assert checked == len(ours.factors) == 6


def test_dare_drops_half_of_the_entries_and_doubles_the_others():
    wide = LoraAdapter("wide", "base", {PATH: random_factors(200, 300)})
    delta = wide.factors[PATH].delta()
    dropped = merge("dare", [wide, wide], [1.0, 0.0], {"rank": 200}).factors[PATH].delta()
    doubled, gone = (dropped - 2 * delta).abs() < 0.05, dropped.abs() < 0.05
    assert (doubled | gone).all()
    assert 0.48 < (doubled & ~gone).sum() / (delta.abs() > 0.05).sum() < 0.52


def test_the_seed_of_dare_decides_what_is_dropped_and_modules_and_adapters_differ():
    paths = ("a.q_proj", "a.v_proj")
    adapters = [random_adapter(name, 3, 1.0, 1, paths) for name in ("one", "two")]
    first = merge("dare", adapters, [], {"seed": 0})
    assert all(torch.equal(first.factors[p].B, merge("dare", adapters, [], {"seed": 0}).factors[p].B) for p in paths)
    other = merge("dare", adapters, [], {"seed": 1})
    assert not torch.allclose(first.factors[paths[0]].delta(), other.factors[paths[0]].delta(), atol=1e-3)
    one = merge("dare", adapters, [1.0, 0.0]).factors[paths[0]].delta()
    two = merge("dare", [adapters[0], adapters[0]], [0.0, 1.0]).factors[paths[0]].delta()
    assert not torch.allclose(one, two, atol=1e-3)


@pytest.mark.parametrize("strategy", ["ties", "dare", "peft_svd"])
def test_a_truncation_says_its_rank_and_its_error(strategy):
    adapters = adapters_of(2)
    whole = merge(strategy, adapters, [], {"rank": 5}).factors[PATH].delta()
    cut = merge(strategy, adapters, [], {"rank": 2})
    assert cut.factors[PATH].rank == cut.report["rank"] == 2
    error = ((whole - cut.factors[PATH].delta()).norm() / whole.norm()).item()
    assert math.isclose(cut.report["relative_truncation_error"], error, rel_tol=1e-4)
    assert error > 0.01


def test_a_large_matrix_is_truncated_as_well_as_by_an_exact_decomposition():
    from compositional.adapters.low_rank import truncated

    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(300, 400, generator=generator) * torch.logspace(0, -2, 400)
    factors, error, norm = truncated(matrix, 16)
    error /= norm
    values = torch.linalg.svdvals(matrix)
    best = (values[16:].square().sum() / values.square().sum()).sqrt().item()
    assert factors.rank == 16
    assert best <= error + 1e-6 < best * 1.001


@pytest.mark.parametrize("density", [0.05, 0.5])
@pytest.mark.parametrize("rank", [16, 64])
@pytest.mark.parametrize("decay", [0.0, 0.15])
def test_a_sparsified_update_is_truncated_within_a_hundredth_of_the_exact_error(decay, rank, density):
    from compositional.adapters.sparsity import agreeing_mean, trim

    generator, strengths = torch.Generator().manual_seed(0), torch.exp(-decay * torch.arange(32))
    updates = [torch.randn(900, 32, generator=generator) * strengths @ torch.randn(32, 1000, generator=generator) for _ in range(2)]
    merged = agreeing_mean([0.5, 0.5], [trim(update, density) for update in updates])
    factors, error, norm = truncated(merged, rank)
    values = torch.linalg.svdvals(merged)
    best = (values[rank:].square().sum() / values.square().sum()).sqrt().item()
    assert best <= error / norm + 1e-6 < best * 1.01
    measured = (torch.linalg.norm((merged - factors.delta()).double()) / norm).item()
    assert error / norm == pytest.approx(measured, rel=1e-4)


@pytest.mark.parametrize("density", [0.001, 0.2, 0.5, 0.999])
@pytest.mark.parametrize("kind", ["normal", "sorted", "many equal", "mostly zero"])
def test_the_largest_entries_of_a_large_update_are_kept_exactly(kind, density):
    from compositional.adapters.sparsity import trim

    values = torch.randn(1_200_000, generator=torch.Generator().manual_seed(0))
    delta = {
        "normal": values,
        "sorted": values.sort().values,
        "many equal": values.round(decimals=1),
        "mostly zero": values * (values > 1.5),
    }[kind].view(1000, 1200)
    kept = trim(delta, density)
    order = delta.abs().flatten().sort(descending=True).values
    count = int(density * delta.numel())
    assert kept.abs().flatten().sort(descending=True).values[:count].equal(order[:count])
    assert (kept != 0).sum() == (order[:count] != 0).sum()
    assert torch.equal(kept[kept != 0], delta[kept != 0])


@pytest.mark.parametrize("strategy", [name for name, one in strategies().items() if not one.learns])
def test_a_module_of_one_adapter_alone_and_zero_updates_do_no_harm(strategy):
    both = random_adapter("both", 2, 1.0, 1, ("a.q_proj", "a.v_proj"))
    one = random_adapter("one", 2, 1.0, 2, ("a.q_proj",))
    silent = LoraAdapter("silent", "base", {p: random_factors(5, 6, zero=True) for p in ("a.q_proj", "a.v_proj")})
    for adapters in ([both, one], [both, silent], [silent, silent]):
        for factors in merge(strategy, adapters, []).factors.values():
            assert torch.isfinite(factors.delta()).all()


@pytest.mark.parametrize("strategy", ["dare", "peft_svd", "svc", "ties"])
def test_a_decomposition_that_fails_is_one_line_with_its_module(strategy):
    adapters = [random_adapter("one", 2, 1.0, 0), random_adapter("two", 2, 1.0, 1)]
    with pytest.raises(UserError) as caught:
        merge(strategy, adapters, [1e39, 1.0])
    (line,) = caught.value.mistakes
    assert line.startswith(
        f"the merge {strategy} fails at model.layers.0.mlp.up_proj: linalg.svd: The algorithm failed to converge"
    )
    assert line.endswith(": lower --lora_merge_weights, or check the adapters' values")


def test_a_decomposition_that_fails_ends_a_command_before_anything_is_written(run, workspace, tiny_models):
    store(workspace, two_of(tiny_models["llama"]))
    flags = "--experiment_name e --lora_merge_strategy ties --lora_merge_modules one two --lora_merge_weights 1e39 1"
    assert mistake_in(f"{SPANISH}{flags}", run, workspace).startswith("the merge ties fails at model.layers.0.mlp.down_proj: ")


def test_a_rank_can_not_be_cut_where_the_decomposition_fails(monkeypatch):
    def failing(*arguments: object, **named: object) -> None:
        raise torch.linalg.LinAlgError("linalg.svd: The algorithm failed to converge.")

    monkeypatch.setattr(torch.linalg, "svd", failing)
    with pytest.raises(UserError, match=r"^the merge one fails at model.layers.0.mlp.up_proj: linalg.svd"):
        compacted(random_adapter("one", 2, 1.0, 0), 1)


@pytest.mark.parametrize("strategy", list(strategies()))
def test_every_strategy_says_what_it_does_and_where_it_is_from(strategy):

    text = find_strategy(strategy).documentation
    assert "PEFT 0.21" in text or "Source: " in text


def test_options_are_read_off_the_signature_and_checked():
    assert find_strategy("ties").options == {"density": 0.5, "rank": 0}
    assert find_strategy("linear").options == {}
    assert find_strategy("dare").parse_options(["density=0.2", "seed=3"]) == {"density": 0.2, "rank": 0, "seed": 3}
    with pytest.raises(UserError) as caught:
        find_strategy("ties").parse_options(["densty=0.2", "rank=half", "density"])
    assert list(caught.value.mistakes) == [
        "--lora_merge_options densty: ties has no such option: did you mean density?",
        "--lora_merge_options rank=half: expected a number",
        "--lora_merge_options density: expected KEY=VALUE",
    ]


@pytest.mark.parametrize("option", ["density=0", "density=1.5", "density=nan", "rank=-1"])
@pytest.mark.parametrize("strategy", ["ties", "dare", "peft_ties", "peft_dare_linear", "knots"])
def test_an_option_out_of_range_is_one_line(strategy, option):
    name = option.split("=")[0]
    if name not in find_strategy(strategy).options:
        return
    with pytest.raises(UserError, match=f"--lora_merge_options {name}=.*: (must be|expected a number)"):
        merge(strategy, adapters_of(2, (2, 2)), [], find_strategy(strategy).parse_options([option]))


@pytest.mark.parametrize("alpha", [0.5, 1.0, 1.5])
def test_svc_divides_by_alpha_at_least(alpha):
    adapters = adapters_of(2)
    found = merge("svc", adapters, [1.0, 1.0], {"alpha": alpha}).factors[PATH].delta()
    deltas = [adapter.factors[PATH].delta() for adapter in adapters]
    torch.testing.assert_close(found, svc_by_hand(deltas, [1.0, 1.0], alpha), rtol=1e-4, atol=1e-5)
    if alpha != 1.0:
        assert (found - svc_by_hand(deltas, [1.0, 1.0])).abs().max() > 1e-3


def random_factors(d_out: int, d_in: int, zero: bool = False) -> LoraFactors:
    generator = torch.Generator().manual_seed(5)
    A, B = torch.randn(2, d_in, generator=generator), torch.randn(d_out, 2, generator=generator)
    return LoraFactors(A, B * (0 if zero else 1), scaling=1.0)


@pytest.mark.parametrize("strategy", ["linear", "concat", "ties", "dare", "slerp", "knots", "svc"])
def test_how_an_update_is_factored_changes_nothing(strategy):
    one, two = random_adapter("one", 2, 1.0, 1, ("a.q_proj",)), random_adapter("two", 2, 1.0, 2, ("a.q_proj",))
    factors = one.factors["a.q_proj"]
    padded = LoraFactors(
        torch.cat([factors.A, torch.zeros(3, factors.d_in)]), torch.cat([factors.B, torch.zeros(factors.d_out, 3)], dim=1), 1.0
    )
    halves = LoraFactors(torch.cat([factors.A, factors.A]), torch.cat([factors.B, factors.B], dim=1) / 2, factors.scaling)
    rank = {"rank": 4} if "rank" in find_strategy(strategy).options else {}
    expected = merge(strategy, [one, two], [0.5, 0.5], rank).factors["a.q_proj"].delta()
    for other in (replace(padded, scaling=factors.scaling), halves):
        found = merge(strategy, [replace(one, factors={"a.q_proj": other}), two], [0.5, 0.5], rank).factors["a.q_proj"].delta()
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("weights", [[0.5, 0.5], [1.0, 1.0], [2.0, 1.0]])
@pytest.mark.parametrize("strategy", ["linear", "concat", "ties", "dare", "slerp", "knots", "svc"])
def test_a_module_that_an_adapter_does_not_update_counts_as_an_update_of_zero(strategy, weights):
    one, two = random_adapter("one", 2, 1.0, 1, ("a.q_proj", "a.v_proj")), random_adapter("two", 2, 1.0, 2, ("a.q_proj",))
    shape = one.factors["a.v_proj"]
    zero = LoraFactors(torch.zeros(2, shape.d_in), torch.zeros(shape.d_out, 2), 1.0)
    with_zero = replace(two, factors=two.factors | {"a.v_proj": zero})
    absent, explicit = (merge(strategy, [one, other], weights).factors["a.v_proj"].delta() for other in (two, with_zero))
    torch.testing.assert_close(absent, explicit, rtol=1e-4, atol=1e-5)


def test_a_factor_wise_merge_of_modules_with_unequal_ranks_is_refused_in_a_line():
    one = random_adapter("one", 4, 1.0, 1, ("a.q_proj", "a.v_proj"))
    two = random_adapter("two", 4, 1.0, 2, ("a.q_proj", "a.v_proj"))
    smaller = random_adapter("smaller", 2, 1.0, 3, ("a.q_proj",))
    mixed = replace(two, factors=two.factors | smaller.factors)
    with pytest.raises(UserError, match=r"those of a.q_proj differ: use linear"):
        merge("peft_linear", [one, mixed], [])


def test_an_update_that_cancels_to_nothing_can_be_interpolated():
    two = random_adapter("two", 2, 1.0, 2, ("a.q_proj",))
    shape = two.factors["a.q_proj"]
    for seed in range(100):
        generator = torch.Generator().manual_seed(seed)
        a, b = torch.randn(1, shape.d_in, generator=generator), torch.randn(shape.d_out, 1, generator=generator)
        nothing = LoraFactors(torch.cat([a, a]), torch.cat([b, -b], dim=1), 1.0)
        merged = merge("slerp", [LoraAdapter("one", two.base_model, {"a.q_proj": nothing}), two], [1.0, 1.0])
        torch.testing.assert_close(merged.factors["a.q_proj"].delta(), shape.delta() / 2, rtol=1e-4, atol=1e-5)


def test_the_error_of_a_truncation_is_exact_on_large_matrices():
    delta = torch.randn(2048, 2048, generator=torch.Generator().manual_seed(0))
    factors, error, norm = truncated(delta, 4)
    exact = (torch.linalg.norm((delta - factors.delta()).double()) / torch.linalg.norm(delta.double())).item()
    assert error / norm == pytest.approx(exact, rel=1e-6)
