"""A calibration that several merges share: trained on all of them, stored, and taken over by another experiment."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from compositional.adapters.lora import LoraAdapter
from compositional.adapters.peft_folder import CALIBRATION_FILE, read_adapter
from compositional.calibration import LC, LC_PLUS_PLUS, METHODS, CalibrationSpec
from compositional.calibration.parameters import Calibration
from compositional.core.errors import UserError
from compositional.core.files import read_json, read_metadata
from compositional.models.chat import IGNORED
from compositional.training import TrainingFolders
from compositional.training import recipes as calibration
from compositional.training.corrected import CorrectedModel, SharedCorrection
from compositional.training.recipes import train_calibration
from helpers.calibrating import MODULES
from helpers.composing import SPANISH, adapter_of, calibrated_by_hand, mistake_in, random_calibration, shapes_in, store, two_of
from helpers.training import optimization, sequences_of

pytestmark = pytest.mark.usefixtures("one_thread")
FRENCH = SPANISH.replace("--tgt_lang es", "--tgt_lang fr").replace("dialogs_es", "dialogs_fr")


@pytest.fixture(autouse=True)
def on_a_cpu(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


# ---- several merges


@pytest.mark.parametrize("modules", [(), ("q_proj", "down_proj")])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
@torch.no_grad()
def test_each_example_of_a_batch_goes_through_its_own_merge_and_the_shared_calibration(architecture, method, modules, tiny_models):
    folder, ids, index = tiny_models[architecture], torch.arange(5, 35).view(3, 10), torch.tensor([1, 0, 1])
    merges = two_of(folder)
    made = random_calibration(CalibrationSpec(method, True, modules=modules), shapes_in(*merges))
    shared = CorrectedModel(AutoModelForCausalLM.from_pretrained(folder), SharedCorrection(merges, made))
    by_hand = [calibrated_by_hand(folder, merged, made)(ids).logits for merged in merges]
    for chosen in (index, 1 - index):
        logits = shared(merge_index=chosen, input_ids=ids).logits
        for example, number in enumerate(chosen.tolist()):
            torch.testing.assert_close(logits[example], by_hand[number][example], rtol=1e-4, atol=1e-4)
            assert (logits[example] - by_hand[1 - number][example]).abs().max() > 0.1


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_the_gradient_of_a_shared_calibration_is_the_mean_over_the_target_tokens_of_all_merges(
    method, tiny_models, tiny_tokenizer, tmp_path
):
    spec, merges = CalibrationSpec(method, True), two_of(tiny_models["llama"])
    sequences = [replace(one, merge_index=int(number % 3 == 0)) for number, one in enumerate(sequences_of(tiny_tokenizer, 12))]

    def taken_off(merges: list[LoraAdapter], chosen: list) -> dict[str, torch.Tensor]:
        """By one update of plain gradient descent at the rate 1, four sequences at a time."""
        trainer = {"optim": "sgd", "max_grad_norm": 0.0}
        settings = optimization(
            learning_rate=1.0, effective_batch_size=12, device_batch_size=4, lr_scheduler_type="constant", trainer=trainer
        )
        folders = TrainingFolders(tmp_path / str(len(list(tmp_path.iterdir()))), tmp_path / "logs")
        model = AutoModelForCausalLM.from_pretrained(tiny_models["llama"])
        trained, report = train_calibration(model, merges, spec, chosen, tiny_tokenizer.pad_token_id, settings, folders, "test")
        assert report.updates == 1
        before = Calibration(spec, shapes_in(*merges), settings.seed).state_dict()
        return {name: before[name] - parameter.detach() for name, parameter in trained.named_parameters()}

    together = taken_off(merges, sequences)
    groups = [[replace(one, merge_index=None) for one in sequences if one.merge_index == number] for number in (0, 1)]
    apart = [taken_off([merged], group) for merged, group in zip(merges, groups, strict=True)]
    tokens = [sum(label != IGNORED for one in group for label in one.labels) for group in groups]
    for name, step in together.items():
        expected = (tokens[0] * apart[0][name] + tokens[1] * apart[1][name]) / sum(tokens)
        torch.testing.assert_close(step, expected, rtol=1e-3, atol=1e-6)
    assert max(step.abs().max() for step in together.values()) > 1e-3


@pytest.fixture
def learned_from(monkeypatch) -> list:
    """The merges and sequences that calibrations are trained with."""
    seen, original = [], train_calibration
    monkeypatch.setattr(calibration, "train_calibration", lambda *given: (seen.append((given[1], given[3])), original(*given))[1])
    return seen


def assert_merge(adapter: LoraAdapter, parts: list[LoraAdapter], correction: Callable[[str], torch.Tensor | float]) -> None:
    for path, factors in adapter.factors.items():
        expected = 0.7 * parts[0].factors[path].delta() + 0.3 * parts[1].factors[path].delta() + correction(path)
        torch.testing.assert_close(factors.delta(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "flags"),
    [
        (LC, "--for_each_component"),
        (LC_PLUS_PLUS, "--for_each_component --calibration_layer_groups 2 --calibration_modules q_proj"),
    ],
)
def test_a_shared_calibration_is_learned_stored_and_taken_over(
    method, flags, run, workspace, tiny_models, tiny_tokenizer, learned_from
):
    folder = tiny_models["llama"]
    one, two, three = [*two_of(folder), adapter_of(folder, "three", 3, 1, 1.0)]
    store(workspace, [one, two, three])
    linear = "--lora_merge_strategy linear --lora_merge_weights 0.7 0.3 --do_predict --lora_merge_modules "
    run(
        f"{SPANISH}--experiment_name shared --calibrate {method} {flags} {linear}one three one two "
        "--merge_datasets pocket_dialogs_fr pocket_dialogs_es --num_examples_merge 8"
    )
    other = f"{FRENCH}--experiment_name other --stored_calibration shared {linear}one three"
    run(other)

    ((merges, sequences),) = learned_from
    for merged, parts in zip(merges, ([one, three], [one, two]), strict=True):
        assert_merge(merged, parts, lambda path: 0)
    texts = [(tiny_tokenizer.decode(sequence.ids), sequence.merge_index) for sequence in sequences]
    assert sorted(("to Spanish" in text, "to French" in text, number) for text, number in texts) == [
        *[(False, True, 0)] * 8,
        *[(True, False, 1)] * 8,
    ]

    stored, taken = (workspace.stored_model(name) for name in ("shared", "other"))
    assert (stored / CALIBRATION_FILE).read_bytes() == (taken / CALIBRATION_FILE).read_bytes()
    learned = load_file(stored / CALIBRATION_FILE)
    assert all(tensor.abs().sum() > 0 for tensor in learned.values())
    if method == LC:
        assert set(learned) == {f"p.{kind}" for kind in MODULES}
    else:
        assert set(learned) == {f"{factor}.q_proj_group{group}" for factor in ("P1", "P2") for group in (0, 1)}

    def correction(path: str) -> torch.Tensor | float:
        name = f"{path.split('.')[-1]}_group{path.split('.')[2]}"
        return learned[f"P2.{name}"] @ learned[f"P1.{name}"] if f"P2.{name}" in learned else 0

    assert_merge(read_adapter(stored), [one, two], correction)
    assert_merge(read_adapter(taken), [one, three], correction)
    for name, report in (("shared", {"examples": 16}), ("other", {"calibration_of": "shared"})):
        results = read_json(workspace.results(name))
        assert results["method"] == f"shared_{method}"
        assert report.items() <= results["training"].items()
        assert results["cost"]["extra_bytes"] == (stored / CALIBRATION_FILE).stat().st_size
        assert results["cost"]["extra_parameters"] == sum(tensor.numel() for tensor in learned.values())
        assert results["stages"]["test"]["counts"]["examples"] == 3

    run(other)  # done already, and taken as it is
    changed = {name: 2 * tensor for name, tensor in learned.items()}
    save_file(changed, stored / CALIBRATION_FILE, metadata=read_metadata(stored / CALIBRATION_FILE))
    with pytest.raises(UserError, match="hash_of_stored_calibration was"):
        run(other)


# ---- groups of layers, and modules


def test_merges_of_different_modules_can_not_share_a_calibration(run, workspace, tiny_models):
    one, two = two_of(tiny_models["llama"])
    partial = adapter_of(tiny_models["llama"], "partial", 3, 2, 1.0, ("q_proj",))
    store(workspace, [one, two, partial, replace(partial, name="partial_too")])
    flags = f"{SPANISH}--experiment_name e --lora_merge_strategy linear --calibrate learnable_calibration --for_each_component "
    sets = "--merge_datasets pocket_dialogs_es pocket_dialogs_fr --lora_merge_modules one two partial partial_too"
    line = mistake_in(f"{flags}{sets}", run, workspace)
    assert line == "--merge_datasets: the merges update different modules, so they can't share a calibration"
