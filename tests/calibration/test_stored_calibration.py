"""A stored calibration: what it was made for, and its parameters per group of layers and type of module."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from compositional.adapters.peft_folder import CALIBRATION_FILE, StoredAdapter, write_adapter
from compositional.calibration import LC, LC_PLUS_PLUS, METHODS, CalibrationSpec, components_of_modules, spec_of_stored
from compositional.calibration.parameters import Calibration, read_biases, read_calibration
from compositional.core.errors import UserError
from compositional.core.files import read_json, read_metadata
from compositional.models.model import Model
from compositional.prediction import PredictionSettings
from compositional.prediction.transformers_backend import TransformersGenerator
from compositional.training.corrected import CorrectedModel
from helpers.calibrating import shapes_of
from helpers.composing import (
    LEARN,
    MERGE,
    SPANISH,
    calibrated_by_hand,
    folded,
    mistake_in,
    random_calibration,
    shapes_in,
    store,
    two_of,
)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def on_a_cpu(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


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
    save_file({"p.q_proj": torch.zeros(64)}, folder / CALIBRATION_FILE)


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


ALIKE = {"method": LC, "for_each_component": True}
NOT_SAID = "is damaged: its header does not say which calibration it is"
NOT_OF_THESE = "it was learned for modules of other shapes or types"


@pytest.fixture
def with_biases(workspace, tiny_models) -> Path:
    """The folder of an adapter with LC's biases, named one, beside another adapter."""
    adapters = two_of(tiny_models["llama"])
    store(workspace, adapters)
    random_calibration(CalibrationSpec(LC, True), shapes_in(*adapters)).write(workspace.stored_model("one"), "float32")
    return workspace.stored_model("one")


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (ALIKE | {"method": LC_PLUS_PLUS}, f"is damaged: its header says {LC_PLUS_PLUS}, and it has p.down_proj"),
        (ALIKE | {"method": "lc"}, f"{NOT_SAID} (method is 'lc')"),
        (ALIKE | {"method": [LC]}, f"{NOT_SAID} (method is ['{LC}'])"),
        ({"method": LC}, f"{NOT_SAID} (for_each_component is None)"),
        (ALIKE | {"for_each_component": "false"}, f"{NOT_SAID} (for_each_component is 'false')"),
        (ALIKE | {"layer_groups": "2"}, f"{NOT_SAID} (layer_groups is '2')"),
        (ALIKE | {"modules": 5}, f"{NOT_SAID} (modules is 5)"),
        ([LC], NOT_SAID),
        (ALIKE | {"for_each_component": False}, NOT_OF_THESE),
        (ALIKE | {"modules": ["q_proj"]}, NOT_OF_THESE),
        (ALIKE | {"layer_groups": 2}, NOT_OF_THESE),
        (ALIKE | {"layer_groups": 9}, NOT_OF_THESE),
    ],
    ids=lambda value: json.dumps(value) if isinstance(value, dict | list) else "",
)
def test_biases_whose_header_says_something_else_are_never_left_out(header, expected, with_biases, run, workspace, tiny_models):
    path = with_biases / CALIBRATION_FILE
    shapes = StoredAdapter(with_biases).shapes
    assert len(read_biases(with_biases, shapes)) == len(shapes)
    save_file(load_file(path), path, metadata={"calibration": json.dumps(header)})
    base = f"{SPANISH}--model_name_or_path {tiny_models['llama']} --experiment_name e "
    for command in ("--stored_model_name one --do_predict", f"{MERGE}--stored_calibration one"):
        *_, line = mistakes_in(f"{base}{command}", run, workspace)
        assert expected in line
    with pytest.raises(UserError) as caught:
        read_biases(with_biases, shapes)
    assert expected in str(caught.value)


def mistakes_in(flags: str, run, workspace) -> list[str]:
    with pytest.raises(UserError) as caught:
        run(flags)
    assert not workspace.output("e").exists()
    return list(caught.value.mistakes)


def test_a_calibration_without_some_of_its_tensors_is_one_line(with_biases, run, workspace, tiny_models):
    path = with_biases / CALIBRATION_FILE
    tensors, header = load_file(path), read_metadata(path)
    command = f"{SPANISH}--model_name_or_path {tiny_models['llama']} --experiment_name e --stored_model_name one --do_predict"
    save_file({name: tensor for name, tensor in tensors.items() if name != "p.q_proj"}, path, metadata=header)
    assert mistake_in(command, run, workspace) == f"{path} does not fit the adapter beside it: {NOT_OF_THESE}"
    save_file({"P1.q_proj": torch.zeros(())}, path, metadata=header)
    expected = f"{path} is damaged: its header says {LC}, and it has P1.q_proj: learn the calibration again"
    assert mistake_in(command, run, workspace) == expected


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
    stored = TransformersGenerator(Model(str(folder)), StoredAdapter(tmp_path), settings).model(ids).logits
    torch.testing.assert_close(stored, expected, rtol=1e-4, atol=1e-4)
    again = read_calibration(tmp_path, shapes_in(merged))
    assert {name: tensor.tolist() for name, tensor in again.state_dict().items()} == {
        name: tensor.tolist() for name, tensor in made.state_dict().items()
    }


def test_the_header_of_a_calibration_says_only_what_is_not_the_default(tmp_path):
    shapes = shapes_of(2, 8, 4, 12)
    Calibration(CalibrationSpec(LC, True), shapes).write(tmp_path, "float16")
    assert read_metadata(tmp_path / CALIBRATION_FILE) == {
        "calibration": '{"method": "learnable_calibration", "for_each_component": true}'
    }
    spec = CalibrationSpec(LC_PLUS_PLUS, False, 3, 2, ("q_proj", "v_proj"))
    Calibration(spec, shapes).write(tmp_path, "float16")
    assert spec_of_stored(tmp_path) == spec
    assert json.loads(read_metadata(tmp_path / CALIBRATION_FILE)["calibration"]).keys() == {
        *("method", "for_each_component", "layer_groups", "modules")
    }


@pytest.mark.slow
def test_a_stored_calibration_of_another_base_model_is_refused(run, workspace, tiny_models):
    store(workspace, two_of(tiny_models["llama"]))
    run(f"{SPANISH}{LEARN}--num_examples_merge 8 --experiment_name made")
    for adapter in two_of(tiny_models["qwen2"]):
        store(workspace, [replace(adapter, name=f"{adapter.name}_q")])
    flags = f"{SPANISH}--experiment_name e --lora_merge_strategy linear --lora_merge_modules one_q two_q --stored_calibration made"
    line = mistake_in(flags, run, workspace)
    assert line.startswith("--stored_calibration made: it was learned on other weights than ")


@pytest.mark.slow
def test_a_stored_calibration_goes_on_top_of_a_merge_that_learns_and_is_called_what_it_is(run, workspace, tiny_models):
    store(workspace, two_of(tiny_models["llama"]))
    run(f"{SPANISH}{LEARN}--num_examples_merge 8 --experiment_name made --do_predict")
    taken = "--lora_merge_modules one two --merge_datasets pocket_dialogs_es --num_examples_merge 8 --stored_calibration made "
    run(f"{SPANISH}--experiment_name e --lora_merge_strategy dam_composed {taken}--do_predict")
    results = read_json(workspace.results("e"))
    assert results["method"] == "learnable_calibration"  # it was learned for one task, so it is not a shared one
    assert results["training"]["merge"]["updates"] >= 1
