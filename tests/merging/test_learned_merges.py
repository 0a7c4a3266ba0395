"""Merges that learn from examples: what examples cost, what each strategy makes of that, what is stored, and what a kill loses."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from tempfile import mkdtemp
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM

from compositional.adapters.lora import LoraAdapter
from compositional.adapters.updates import AdapterUpdates
from compositional.merging import merge
from compositional.merging.dam import mean_cosine
from compositional.training import TrainingFolders, TrainingReport
from compositional.training.precision import Precision
from compositional.training.recipes import MergeExamples
from helpers import ARCHITECTURES
from helpers.calibrating import MODULES
from helpers.composing import adapter_of, assert_sum, folded, loss_by_hand, two_of
from helpers.merging import peft_model_with_adapters, saved_adapters
from helpers.training import optimization, sequences_of

pytestmark = pytest.mark.usefixtures("one_thread")
PLAIN = {"trainer": {"optim": "sgd", "max_grad_norm": 0.0}}


@pytest.fixture(autouse=True)
def on_a_cpu(monkeypatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # for the processes that a test starts
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture
def examples_of(tiny_models, tiny_tokenizer, tmp_path) -> Callable[..., MergeExamples]:
    """Eight examples, which make one update, for a tiny model; each call has checkpoints of its own unless told otherwise."""

    def make(architecture: str = "llama", fresh: bool = True, **changes) -> MergeExamples:
        model = AutoModelForCausalLM.from_pretrained(tiny_models[architecture])
        settings = optimization(**({"effective_batch_size": 8, "lr_scheduler_type": "constant"} | changes))
        folders = TrainingFolders(Path(mkdtemp(dir=tmp_path)) if fresh else tmp_path / "kept", tmp_path / "logs")
        return MergeExamples(model, sequences_of(tiny_tokenizer, 8), tiny_tokenizer.pad_token_id, settings, folders, "test")

    return make


@pytest.mark.parametrize(("weights", "at_a_time"), [([1.0, 0.0], 1), ([0.0, 1.0], 3), ([0.6, 0.4], None), ([1.2, -0.7], 5)])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_cost_of_updates_is_the_models_cross_entropy_with_them(
    architecture, weights, at_a_time, tiny_models, examples_of, tmp_path
):
    folder = tiny_models[architecture]
    peft_model = peft_model_with_adapters(folder, [{"r": 2, "lora_alpha": 3}, {"r": 4, "lora_alpha": 2}])
    adapters, examples = saved_adapters(peft_model, 2, tmp_path / "peft"), examples_of(architecture, device_batch_size=at_a_time)
    loss = examples.loss(AdapterUpdates(adapters, weights))
    assert loss == pytest.approx(loss_by_hand(folded(folder, adapters, weights), examples.sequences), rel=1e-6)
    assert loss != pytest.approx(loss_by_hand(AutoModelForCausalLM.from_pretrained(folder), examples.sequences), rel=1e-3)
    if sorted(weights) == [0.0, 1.0]:  # PEFT itself applies one adapter
        peft_model.set_adapter(f"a{weights.index(1.0)}")
        assert loss == pytest.approx(loss_by_hand(peft_model, examples.sequences), rel=1e-6)


@pytest.mark.slow
def test_the_model_is_left_as_it_was(tiny_models, examples_of):
    examples, ids = examples_of(), torch.arange(5, 25).view(2, 10)
    before = examples.model(ids).logits
    updates = AdapterUpdates(two_of(tiny_models["llama"]), [0.5, 0.5], column_scales=True)
    examples.loss(updates)
    examples.train(updates, 1e-2, 1.0)
    updates.weights = torch.ones(3, 2)  # of a shape that does not fit, so that the model fails on its way
    with pytest.raises(RuntimeError):
        examples.loss(updates)
    assert torch.equal(examples.model(ids).logits, before)
    assert not any(module._forward_hooks for module in examples.model.modules())


def test_lm_cocktail_weighs_adapters_by_the_softmax_of_their_losses(tiny_models, examples_of):
    folder, examples = tiny_models["llama"], examples_of()
    adapters = two_of(folder)
    costs = [math.exp(-loss_by_hand(folded(folder, [adapter], [1.0]), examples.sequences) / 0.1) for adapter in adapters]
    merged = merge("lm_cocktail", adapters, [], {"temperature": 0.1}, examples)
    assert merged.report["weights"] == pytest.approx([cost / sum(costs) for cost in costs], rel=1e-3)
    assert merged.learned["weights"].tolist() == pytest.approx(merged.report["weights"])
    assert_sum(merged, adapters, merged.report["weights"])


def lorahub(adapters: list[LoraAdapter], lowest: list[float], **options) -> tuple[LoraAdapter, list[list[float]]]:
    """The merge for a loss whose lowest point is known, and the weights that were tried."""
    tried = []

    def loss(updates: AdapterUpdates) -> float:
        tried.append(updates.weights.tolist())
        return sum((weight - best) ** 2 for weight, best in zip(tried[-1], lowest, strict=True))

    return merge("lorahub", adapters, [], {"l1": 0.0} | options, SimpleNamespace(loss=loss)), tried


@pytest.mark.parametrize(
    ("lowest", "options", "found"),
    [
        ([0.9, -0.5], {}, [0.9, -0.5]),
        ([3.0, -3.0], {"bound": 0.7}, [0.7, -0.7]),
        ([1.2, -0.9], {"l1": 2.0}, [0.7, -0.4]),  # the derivative of (w - lowest)² + l1 |w| / 2 is zero there
    ],
)
def test_lorahub_finds_the_weights_of_the_lowest_cost_within_its_bound(lowest, options, found, tiny_models):
    adapters = two_of(tiny_models["llama"])
    merged, tried = lorahub(adapters, lowest, **options)
    assert merged.report["weights"] == pytest.approx(found, abs=0.1)
    assert merged.learned["weights"].tolist() == pytest.approx(merged.report["weights"])
    assert_sum(merged, adapters, merged.report["weights"])
    assert (tried[0], len(tried)) == ([0.0, 0.0], 40)
    assert max(abs(weight) for weights in tried for weight in weights) <= options.get("bound", 1.5) + 1e-6


def test_lorahub_does_the_same_for_the_same_seed(tiny_models):
    # With fewer evaluations NGOpt takes a search that draws nothing at random.
    one, two, other = (lorahub(two_of(tiny_models["llama"]), [0.9, -0.5], evaluations=110, seed=seed)[1] for seed in (3, 3, 4))
    assert one == two != other


def three_of(folder: Path) -> list[LoraAdapter]:
    """Three adapters, of which the first and the last update some modules only."""
    kinds = (("q_proj", "down_proj"), MODULES, ("q_proj", "v_proj"))
    return [adapter_of(folder, f"a{n}", n, n + 2, (2.0, 0.5, 1.0)[n], kinds[n]) for n in range(3)]


def scattered(updates: AdapterUpdates) -> AdapterUpdates:
    """With scales that are unlike each other, of either sign."""
    torch.manual_seed(9)
    for parameter in updates.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return updates


def test_dam_starts_at_the_weights_and_scales_the_columns_of_each_update(tiny_models, examples_of):
    adapters, weights, scales, examples = three_of(tiny_models["llama"]), [0.5, 0.3, -0.2], [], examples_of()

    def train(updates: AdapterUpdates, *told) -> TrainingReport:
        assert told == (0.02, 2.5, None)
        assert all((start == weights[n]).all() for n in range(3) for start in updates.scales_of(n).values())
        scales.extend(scattered(updates).scales_of(n) for n in range(3))
        return TrainingReport(1, 2, examples.loss(updates), 4.0, 5.0)

    merged = merge("dam_composed", adapters, weights, {"learning_rate": 0.02, "epochs": 2.5}, SimpleNamespace(train=train))
    loss = loss_by_hand(folded(tiny_models["llama"], [merged], [1.0]), examples.sequences)
    assert merged.report["first_loss"] == pytest.approx(loss, rel=1e-5)
    for path, factors in merged.factors.items():
        several = [(adapter.factors[path].delta(), m[path]) for adapter, m in zip(adapters, scales, strict=True) if path in m]
        torch.testing.assert_close(factors.delta(), sum(delta @ m.diag() for delta, m in several), rtol=1e-4, atol=1e-5)
    assert merged.learned.keys() == {f"m{n}.{path}" for n, adapter in enumerate(adapters) for path in adapter.factors}
    assert all(torch.equal(merged.learned[f"m{n}.{path}"], scales[n][path]) for n in range(3) for path in scales[n])


def gradients(examples: MergeExamples, updates: AdapterUpdates, penalty: Callable | None = None) -> dict[str, torch.Tensor]:
    """What one update of plain gradient descent, at the rate 1, takes off the scales; they stay as they were."""
    before = {name: parameter.detach().clone() for name, parameter in updates.named_parameters()}
    assert examples.train(updates, 1.0, 1.0, penalty).updates == 1
    taken = {name: before[name] - parameter.detach() for name, parameter in updates.named_parameters()}
    updates.load_state_dict(before)
    return taken


@pytest.mark.slow
def test_the_gradient_of_the_scales_is_the_slope_of_the_cost(tiny_models, examples_of):
    updates = scattered(AdapterUpdates(three_of(tiny_models["llama"]), [1.0] * 3, column_scales=True))
    examples = examples_of(**PLAIN)
    gradient = gradients(examples, updates)
    for name, parameter in list(updates.named_parameters())[::4]:
        losses = []
        for step in (1e-2, -2e-2):  # forth, then back beyond the start
            parameter.data += step * gradient[name].sign()
            losses.append(examples.loss(updates))
        parameter.data += 1e-2 * gradient[name].sign()
        assert (losses[0] - losses[1]) / 2e-2 == pytest.approx(gradient[name].abs().sum().item(), rel=0.05)


@pytest.mark.slow
def test_the_penalty_is_the_mean_cosine_and_counts_once_in_an_update(tiny_models, examples_of):
    updates = scattered(AdapterUpdates(three_of(tiny_models["llama"]), [1.0] * 3, column_scales=True))
    pairs = [pair for path in updates.corrected_paths for pair in combinations(updates.column_scales(path), 2)]
    assert len(pairs) == 2 * (3 + 1 + 1)  # in each layer, all three share q_proj, and two each v_proj and down_proj
    by_hand = sum(((one @ other) / (one.norm() * other.norm())).abs() for one, other in pairs) / len(pairs)
    assert mean_cosine(updates).item() == pytest.approx(by_hand.item(), rel=1e-5)
    apart = [adapter_of(tiny_models["llama"], kind, 1, 2, 1.0, (kind,)) for kind in ("q_proj", "v_proj")]
    assert mean_cosine(AdapterUpdates(apart, [1.0] * 2, column_scales=True)) == 0, "they share no module"
    slopes = torch.autograd.grad(by_hand, list(updates.parameters()), allow_unused=True, materialize_grads=True)
    for size in (8, 2):
        free = gradients(examples_of(device_batch_size=size, **PLAIN), updates)
        bound = gradients(examples_of(device_batch_size=size, **PLAIN), updates, lambda: 30 * mean_cosine(updates))
        for name, slope in zip(free, slopes, strict=True):
            torch.testing.assert_close(bound[name] - free[name], 30 * slope, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("autocast", [False, True])
def test_training_the_scales_lowers_the_cost_and_a_penalty_their_likeness(autocast, tiny_models, examples_of):
    adapters, costs, likeness = two_of(tiny_models["llama"]), [], []
    for cosine in (0.0, 5.0):
        examples = examples_of(precision=Precision(autocast=autocast))
        costs.append(examples.loss(AdapterUpdates(adapters, [0.5, 0.5])))
        merged = merge("dam_composed", adapters, [], {"learning_rate": 0.05, "epochs": 8.0, "cosine": cosine}, examples)
        costs.append(loss_by_hand(folded(tiny_models["llama"], [merged], [1.0]), examples.sequences))
        pairs = [(merged.learned[f"m0.{path}"], merged.learned[f"m1.{path}"]) for path in merged.factors]
        likeness.append(sum(torch.cosine_similarity(*pair, dim=0).abs().item() for pair in pairs) / len(pairs))
    before, free, _, bound = costs
    assert free < bound < before - 0.1
    assert likeness[1] < likeness[0] - 0.1


@pytest.mark.slow
def test_a_merge_that_has_learned_is_not_learned_again_when_its_calibration_goes_on(tiny_models, examples_of):
    adapters, rates = two_of(tiny_models["llama"]), (0.01, 0.1)  # the second would show
    first, again = (merge("dam_composed", adapters, [], {"learning_rate": rate}, examples_of(fresh=False)) for rate in rates)
    assert all(torch.equal(first.learned[name], again.learned[name]) for name in first.learned)
    assert first.report["updates"] == again.report["updates"] == 1


@pytest.mark.slow
def test_recomputing_activations_leaves_the_model_as_it_was(examples_of, tiny_models):
    examples, adapters = examples_of(gradient_checkpointing=True), two_of(tiny_models["llama"])
    before = examples.loss(AdapterUpdates(adapters, [0.5, 0.5]))
    examples.train(AdapterUpdates(adapters, [0.5, 0.5], column_scales=True), 1e-3, 1.0)
    assert not examples.model.is_gradient_checkpointing
    assert not examples.model.training
    assert len(examples.model.get_input_embeddings()._forward_hooks) == 0
    assert examples.loss(AdapterUpdates(adapters, [0.5, 0.5])) == pytest.approx(before, rel=1e-6)
