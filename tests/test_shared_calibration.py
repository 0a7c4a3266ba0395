"""A calibration that several merges share, that another experiment takes over, and that has parameters per group of layers."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import pytest
import torch
from composing import LEARN, MERGE, SPANISH, adapter_of, folded, mistake_in, store, two_of
from safetensors.torch import load_file, save_file
from test_calibration import MODULES, shapes_of
from test_training import optimization, sequences_of
from transformers import AutoModelForCausalLM

from src.adapters.lora import LoraAdapter
from src.adapters.peft_folder import read_adapter, write_adapter
from src.calibration import FILE, LC, LC_PLUS_PLUS, METHODS, CalibrationSpec, components_of_modules
from src.calibration.model import CorrectedModel
from src.calibration.parameters import Calibration, read_calibration
from src.calibration.stored import spec_of_stored
from src.encoding import IGNORED
from src.errors import UserError
from src.files import read_json
from src.models import BaseModel
from src.prediction import PredictionSettings
from src.prediction.transformers_backend import TransformersGenerator
from src.tensor_files import read_metadata
from src.training import TrainingFolders, calibration
from src.training.calibration import SharedCorrection, train_calibration

pytestmark = pytest.mark.usefixtures("one_thread")
FRENCH = SPANISH.replace("--tgt_lang es", "--tgt_lang fr").replace("dialogs_es", "dialogs_fr")


@pytest.fixture(autouse=True)
def on_a_cpu(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def shapes_in(*adapters: LoraAdapter) -> dict[str, tuple[int, int]]:
    return {path: (factors.d_out, factors.d_in) for adapter in adapters for path, factors in adapter.factors.items()}


def random_calibration(spec: CalibrationSpec, shapes: dict[str, tuple[int, int]]) -> Calibration:
    made = Calibration(spec, shapes)
    torch.manual_seed(11)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return made


def calibrated_by_hand(folder: Path, merged: LoraAdapter, made: Calibration) -> torch.nn.Module:
    """A model of two layers with merge and P2 P1 in its weights and p in its biases; a group of layers is one layer here."""
    model = folded(folder, [merged], [1.0])
    for path in merged.factors:
        layer, kind = path.split(".")[2], path.split(".")[-1]
        name = kind if made.spec.layer_groups == 1 else f"{kind}_group{layer}"
        module = model.get_submodule(path)
        if made.spec.modules and kind not in made.spec.modules:
            continue
        if made.spec.method == LC:
            module.bias = torch.nn.Parameter(made.p[name].detach() + (0 if module.bias is None else module.bias.detach()))
        else:
            module.weight.data += made.P2[name] @ made.P1[name]
    return model


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
    assert (stored / FILE).read_bytes() == (taken / FILE).read_bytes()
    learned = load_file(stored / FILE)
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
        assert results["cost"]["extra_bytes"] == (stored / FILE).stat().st_size
        assert results["cost"]["extra_parameters"] == sum(tensor.numel() for tensor in learned.values())
        assert results["stages"]["test"]["counts"]["examples"] == 3

    run(other)  # done already, and taken as it is
    changed = {name: 2 * tensor for name, tensor in learned.items()}
    save_file(changed, stored / FILE, metadata=read_metadata(stored / FILE))
    with pytest.raises(UserError, match="hash_of_stored_calibration was"):
        run(other)


def of_larger_modules(folder: Path, shapes: dict[str, tuple[int, int]]) -> None:
    Calibration(CalibrationSpec(LC_PLUS_PLUS, True), {path: (d_out, 2 * d_in) for path, (d_out, d_in) in shapes.items()}).write(
        folder, "float32"
    )


def of_fewer_modules(folder: Path, shapes: dict[str, tuple[int, int]]) -> None:
    Calibration(CalibrationSpec(LC, True), {path: shape for path, shape in shapes.items() if "q_proj" in path}).write(
        folder, "float32"
    )


def of_other_modules(folder: Path, shapes: dict[str, tuple[int, int]]) -> None:
    Calibration(CalibrationSpec(LC, True, modules=("w1",)), {"model.layers.0.w1": (4, 4)}).write(folder, "float32")


def without_a_header(folder: Path, shapes: dict[str, tuple[int, int]]) -> None:
    save_file({"p.q_proj": torch.zeros(64)}, folder / FILE)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (of_larger_modules, "calibration made does not fit the merge: it was learned for modules of other shapes or types"),
        (of_fewer_modules, "calibration made does not fit the merge: it was learned for modules of other shapes or types"),
        (of_other_modules, "calibration made does not fit the merge: it was learned for modules of other shapes or types"),
        (without_a_header, "is damaged: its header does not say which calibration it is"),
    ],
)
def test_a_stored_calibration_of_other_modules_is_one_line(make, expected, run, workspace, tiny_models):
    adapters = two_of(tiny_models["llama"])
    store(workspace, adapters)
    workspace.stored_model("made").mkdir()
    make(workspace.stored_model("made"), shapes_in(*adapters))
    assert mistake_in(f"{SPANISH}{MERGE}--experiment_name e --stored_calibration made", run, workspace).endswith(expected)


# ---- groups of layers, and modules


@pytest.mark.parametrize(
    ("layers", "count", "sizes"), [(5, 1, [5]), (5, 2, [3, 2]), (5, 0, [1] * 5), (5, 5, [1] * 5), (16, 3, [6, 5, 5])]
)
def test_groups_are_of_consecutive_layers_and_equal_but_for_one(layers, count, sizes):
    shapes = shapes_of(layers, 8, 4, 12)
    components = components_of_modules(CalibrationSpec(LC, True, layer_groups=count), shapes)
    found = [components[f"model.layers.{layer}.q_proj"] for layer in range(layers)]
    grouped = [(name, len(list(several))) for name, several in groupby(found)]
    assert [name for name, _ in grouped] == ([f"q_proj_group{n}" for n in range(len(sizes))] if count != 1 else ["q_proj"])
    assert sorted((size for _, size in grouped), reverse=True) == sizes
    by_shape = components_of_modules(CalibrationSpec(LC, False, layer_groups=count), shapes)
    for layer, name in enumerate(found):
        suffix = name.removeprefix("q_proj")
        assert by_shape[f"model.layers.{layer}.o_proj"] == by_shape[f"model.layers.{layer}.q_proj"] == f"8x8{suffix}"


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("--calibration_layer_groups 3", "--calibration_layer_groups 3: the merge updates 2 layers"),
        (
            "--calibration_modules q_proj w1",
            "--calibration_modules w1: the merge updates down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj",
        ),
    ],
)
def test_groups_and_modules_that_there_are_not_are_one_line(flags, expected, run, workspace, tiny_models):
    store(workspace, two_of(tiny_models["llama"]))
    assert mistake_in(f"{SPANISH}{LEARN}--experiment_name e {flags}", run, workspace) == expected


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("groups", "modules"), [(2, ()), (0, ("v_proj", "down_proj")), (1, ("v_proj",))])
@torch.no_grad()
def test_a_stored_calibration_of_groups_and_modules_answers_as_it_was_trained(groups, modules, method, tiny_models, tmp_path):
    folder, ids = tiny_models["qwen2"], torch.arange(5, 25).view(2, 10)
    merged = two_of(folder)[0]
    made = random_calibration(CalibrationSpec(method, True, layer_groups=groups, modules=modules), shapes_in(merged))
    write_adapter(tmp_path, made.fold_into(merged), "float32")
    made.write(tmp_path, "float32")
    expected = calibrated_by_hand(folder, merged, made)(ids).logits
    trained = CorrectedModel(folded(folder, [merged], [1.0]), made)(input_ids=ids).logits
    torch.testing.assert_close(trained, expected, rtol=1e-4, atol=1e-4)
    settings = PredictionSettings("transformers", 4, 64, 2, "float32")
    stored = TransformersGenerator(BaseModel(str(folder)), tmp_path, settings).model(ids).logits
    torch.testing.assert_close(stored, expected, rtol=1e-4, atol=1e-4)
    again = read_calibration(tmp_path, shapes_in(merged))
    assert {name: tensor.tolist() for name, tensor in again.state_dict().items()} == {
        name: tensor.tolist() for name, tensor in made.state_dict().items()
    }


def test_the_header_of_a_calibration_says_only_what_is_not_the_default(tmp_path):
    shapes = shapes_of(2, 8, 4, 12)
    Calibration(CalibrationSpec(LC, True), shapes).write(tmp_path, "float16")
    assert read_metadata(tmp_path / FILE) == {"calibration": '{"method": "learnable_calibration", "for_each_component": true}'}
    spec = CalibrationSpec(LC_PLUS_PLUS, False, 3, 2, ("q_proj", "v_proj"))
    Calibration(spec, shapes).write(tmp_path, "float16")
    assert spec_of_stored(tmp_path) == spec
    assert json.loads(read_metadata(tmp_path / FILE)["calibration"]).keys() == {
        *("method", "for_each_component", "layer_groups", "modules")
    }


def test_merges_of_different_modules_can_not_share_a_calibration(run, workspace, tiny_models):
    one, two = two_of(tiny_models["llama"])
    partial = adapter_of(tiny_models["llama"], "partial", 3, 2, 1.0, ("q_proj",))
    store(workspace, [one, two, partial, replace(partial, name="partial_too")])
    flags = f"{SPANISH}--experiment_name e --lora_merge_strategy linear --calibrate learnable_calibration --for_each_component "
    sets = "--merge_datasets pocket_dialogs_es pocket_dialogs_fr --lora_merge_modules one two partial partial_too"
    line = mistake_in(f"{flags}{sets}", run, workspace)
    assert line == "--merge_datasets: the merges update different modules, so they can't share a calibration"


def test_a_stored_calibration_of_another_base_model_is_refused(run, workspace, tiny_models):
    store(workspace, two_of(tiny_models["llama"]))
    run(f"{SPANISH}{LEARN}--num_examples_merge 8 --experiment_name made")
    for adapter in two_of(tiny_models["qwen2"]):
        store(workspace, [replace(adapter, name=f"{adapter.name}_q")])
    flags = f"{SPANISH}--experiment_name e --lora_merge_strategy linear --lora_merge_modules one_q two_q --stored_calibration made"
    line = mistake_in(flags, run, workspace)
    assert line.startswith("--stored_calibration made: it was learned on other weights than ")


def test_a_stored_calibration_goes_on_top_of_a_merge_that_learns_and_is_called_what_it_is(run, workspace, tiny_models):
    store(workspace, two_of(tiny_models["llama"]))
    run(f"{SPANISH}{LEARN}--num_examples_merge 8 --experiment_name made --do_predict")
    taken = "--lora_merge_modules one two --merge_datasets pocket_dialogs_es --num_examples_merge 8 --stored_calibration made "
    run(f"{SPANISH}--experiment_name e --lora_merge_strategy dam {taken}--do_predict")
    results = read_json(workspace.results("e"))
    assert results["method"] == "learnable_calibration"  # it was learned for one task, so it is not a shared one
    assert results["training"]["merge"]["updates"] >= 1
