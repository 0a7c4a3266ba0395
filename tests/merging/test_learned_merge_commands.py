"""Merges that learn from examples, by the real command: stored, counted, refused in a line, resumed."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

import run_experiment
from compositional.adapters.peft_folder import read_adapter
from compositional.core.files import read_json
from compositional.core.workspace import Workspace
from compositional.data import Locations, find_dataset
from compositional.training.recipes import MergeExamples
from helpers.composing import SPANISH, START, assert_sum, mistake_in, store, two_of
from helpers.running import command, start, wait_until

pytestmark = pytest.mark.usefixtures("one_thread")
NEW = f"{SPANISH}--experiment_name e --lora_merge_modules one two --merge_datasets pocket_dialogs_es --lora_merge_strategy "


@pytest.fixture(autouse=True)
def on_a_cpu(monkeypatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # for the processes that a test starts
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.slow
def test_what_is_learned_is_stored_and_counted_also_below_a_calibration(run, workspace, tiny_models):
    adapters = two_of(tiny_models["llama"])
    store(workspace, adapters)
    run(f"{NEW}dam_composed --num_examples_merge 8 --do_predict")
    run(f"{NEW}dam_composed --num_examples_merge 8 --experiment_name on_top --calibrate learnable_calibration --for_each_component")
    scales = load_file(workspace.stored_model("e") / "learned_merge.safetensors")
    for path, factors in read_adapter(workspace.stored_model("e")).factors.items():
        expected = sum(adapter.factors[path].delta() * scales[f"m{n}.{path}"] for n, adapter in enumerate(adapters))
        torch.testing.assert_close(factors.delta(), expected, rtol=1e-4, atol=1e-5)
    sizes = [(workspace.stored_model("on_top") / f"{name}.safetensors").stat().st_size for name in ("learned_merge", "calibration")]
    d_ins, d_outs = 6 * 64 + 48, 64 + 32 + 32 + 64 + 48 + 48 + 64  # of the seven modules in each of two layers
    alone, below = (read_json(workspace.results(name)) for name in ("e", "on_top"))
    assert alone["cost"] == {"inferences_per_example": 1, "extra_parameters": 2 * 2 * d_ins, "extra_bytes": sizes[0]}
    assert below["cost"] == {"inferences_per_example": 1, "extra_parameters": 2 * 2 * d_ins + d_outs, "extra_bytes": sum(sizes)}
    assert (alone["method"], alone["stages"]["test"]["counts"]["examples"]) == ("dam_composed", 3)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("lorahub --lora_merge_options evaluations=0", "evaluations must be at least 1"),
        ("lorahub --lora_merge_options bound=0", "bound above 0"),
        ("lorahub --lora_merge_weights 0.3 0.7", "--lora_merge_weights contradicts"),
        ("lm_cocktail --lora_merge_weights 0.3 0.7", "--lora_merge_weights contradicts"),
        ("lm_cocktail --lora_merge_options temperature=0", "must be above 0"),
        ("dam_composed --lora_merge_options learning_rate=0", "must be above 0"),
        ("dam_composed --lora_merge_options epochs=-1", "must be above 0"),
        ("dam_composed --lora_merge_options cosinus=1", "did you mean cosine?"),
        ("dam_composed --lora_merge_options cosine=-5", "cosine at least 0"),
        ("dam_composed --lora_merge_options learning_rate=nan", "--lora_merge_options learning_rate=nan: expected a number"),
        ("dam_composed --lora_merge_options epochs=inf", "--lora_merge_options epochs=inf: expected a number"),
        ("lm_cocktail --lora_merge_options temperature=nan", "temperature=nan: expected a number"),
        ("lorahub --lora_merge_options l1=-1", "l1 at least 0"),
        ("lorahub --lora_merge_options seed=-1", "seed at least 0"),
        (
            "lorahub --lora_merge_weights 2 2",
            "--lora_merge_weights contradicts --lora_merge_strategy lorahub, which finds the weights",
        ),
    ],
)
def test_a_wrong_option_is_one_line_before_anything_is_written(flags, expected, run, workspace, tiny_models):
    store(workspace, two_of(tiny_models["llama"]))
    assert expected in mistake_in(f"{NEW}{flags}", run, workspace)


OWN = """
from dataclasses import replace
from compositional.adapters.lora import with_learned_weights
from compositional.adapters.updates import AdapterUpdates
NUM_EXAMPLES = 3
def merge(adapters, weights, examples, *, sign: int = 1):
    losses = [sign * examples.loss(AdapterUpdates([adapter], [1.0])) for adapter in adapters]
    merged = with_learned_weights("own", adapters, [float(loss == min(losses)) for loss in losses])
    return replace(merged, report={"losses": losses, "ids": [one.ids for one in getattr(examples, "sequences", [])]})
"""


def test_a_strategy_of_ones_own_gets_examples_of_the_merge_set(run, workspace, tiny_models, tiny_tokenizer, tmp_path):
    adapters, strategy = two_of(tiny_models["llama"]), tmp_path / "own.py"
    store(workspace, adapters)
    strategy.write_text(OWN, encoding="utf-8")
    run(f"{NEW}{strategy} --lora_merge_options sign=-1")
    report, solved = read_json(workspace.results("e"))["training"], find_dataset("pocket_dialogs_es", Locations(tmp_path, None))
    assert_sum(read_adapter(workspace.stored_model("e")), [adapters[report["losses"].index(min(report["losses"]))]], [1.0])
    texts = {tiny_tokenizer.decode(ids) for ids in report["ids"]}
    assert len(texts) == 3
    assert texts <= {f"{START}{one.input}<|end|><|assistant|>{one.reference}<|end|>" for one in solved.read("train")}


@pytest.mark.slow(10)
def test_a_killed_merge_goes_on_to_the_same_adapter(tiny_models, tmp_path):
    folder, log = tiny_models["llama"], tmp_path / "log"
    whole, killed = Workspace(tmp_path / "whole"), Workspace(tmp_path / "killed")
    new = NEW.replace("--report_to none ", "")  # the command has it
    flags = f"{new}dam_composed --num_examples_merge 160 --lora_merge_options learning_rate=0.05"
    for workspace in (whole, killed):
        store(workspace, two_of(folder))
    process = start(command(folder, killed, flags), log)
    wait_until(lambda: bool(list(killed.training("e").glob("merge_0/checkpoint-*/hashes.json"))), process, log)
    process.kill()
    process.wait()
    assert not killed.stored_model("e").exists()
    for workspace in (whole, killed):
        run_experiment.run(command(folder, workspace, flags)[2:])
    made = [{path.name: path.read_bytes() for path in one.stored_model("e").glob("*.safetensors")} for one in (whole, killed)]
    assert made[0] == made[1] != {}
    assert (killed.logs("e") / "run.log").read_text().count("update 1: ") == 1, "the training began anew"


@pytest.mark.slow
def test_below_a_calibration_lorahub_looks_at_few_examples_and_its_report_is_kept(run, workspace, tiny_models, monkeypatch):
    store(workspace, two_of(tiny_models["llama"]))
    seen = []
    monkeypatch.setattr(MergeExamples, "loss", lambda self, correction: seen.append(len(self.sequences)) or 1.0)
    flags = f"{NEW}lorahub --lora_merge_options evaluations=3 --calibrate learnable_calibration --for_each_component "
    run(f"{flags}--num_examples_merge 16 --do_predict")
    training = read_json(workspace.results("e"))["training"]
    assert (set(seen), training["examples"], len(training["merge"]["weights"])) == ({5}, 16, 2)
