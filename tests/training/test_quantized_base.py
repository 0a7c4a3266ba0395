"""Training on a base model with the weights of a quantized GGUF file."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from gguf import GGUFReader, dequantize
from transformers import AutoTokenizer

from compositional.adapters.peft_folder import read_adapter
from compositional.core.files import read_json
from compositional.experiment.resume import ADAPTER_RECORD
from compositional.formats.gguf import round_weights, write_base
from compositional.formats.gguf_forms import gguf_form
from compositional.models.model import Model
from helpers.composing import mistake_in
from helpers.tiny_runs import LENGTHS, TINY_RUN, method_run


@pytest.fixture(autouse=True)
def on_a_cpu(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.parametrize("dtype", ["q8_0", "q4_1"])
@pytest.mark.parametrize("architecture", ["llama", "qwen2", "stablelm"])
def test_rounded_weights_are_those_of_the_file(architecture, dtype, tiny_models, tmp_path):
    base = Model(str(tiny_models[architecture]))
    (path,) = write_base(tmp_path / "base.gguf", base, dtype, {})
    stored = {one.name: dequantize(one.data, one.tensor_type) for one in GGUFReader(path).tensors}
    rounded, exact = base.load(torch.float32), base.load(torch.float32)
    round_weights(rounded, dtype)
    expected = dict(gguf_form(base).tensors(rounded.state_dict()))
    assert all(np.array_equal(value, expected[name]) for name, value in stored.items())
    assert not torch.equal(rounded.model.layers[0].self_attn.q_proj.weight, exact.model.layers[0].self_attn.q_proj.weight)
    assert torch.equal(rounded.model.norm.weight, exact.model.norm.weight)


@pytest.mark.slow(5)
def test_training_on_rounded_weights_is_training_on_a_model_that_has_them(tiny_models, workspace, run, tmp_path):
    rounded = Model(str(tiny_models["llama"])).load(torch.float32)
    round_weights(rounded, "q4_1")
    rounded.save_pretrained(tmp_path / "rounded")
    AutoTokenizer.from_pretrained(tiny_models["llama"]).save_pretrained(tmp_path / "rounded")
    asked = f"{TINY_RUN}{LENGTHS}--dataset pocket_dialogs --do_train --adapter_dtype float32 "
    for name, flags in {
        "flag": f"--model_name_or_path {tiny_models['llama']} --train_dtype q4_1",
        "folder": f"--model_name_or_path {tmp_path / 'rounded'} --train_dtype float32",
        "exact": f"--model_name_or_path {tiny_models['llama']} --train_dtype float32",
    }.items():
        run(f"{asked}--experiment_name {name} --stored_model_name {name} {flags}")
    flag, folder, exact = (read_adapter(workspace.stored_model(name)).factors for name in ("flag", "folder", "exact"))
    assert all(torch.equal(flag[path].B, folder[path].B) for path in folder)
    assert not any(torch.equal(flag[path].B, exact[path].B) for path in exact)
    record = read_json(workspace.stored_model("flag") / ADAPTER_RECORD)
    assert (record["settings"]["train_dtype"], record["report"]["precision"]) == ("q4_1", "q4_1 base, float32")


@pytest.mark.slow(10)
def test_a_calibration_learned_on_a_quantized_base_is_another_and_llama_cpp_answers_with_both(
    tiny_models, single_tasks, workspace, run
):
    shutil.copytree(single_tasks("llama"), workspace.root)
    asked = f"{method_run(tiny_models['llama'], 'lc_pp')}--prediction_backend llama_cpp --prediction_dtype q4_1 "
    run(asked)
    run(f"{asked.replace('--experiment_name lc_pp', '--experiment_name on_quantized')} --train_dtype q4_1")
    one, other = (read_adapter(workspace.stored_model(name)).factors for name in ("lc_pp", "on_quantized"))
    assert not any(torch.equal(one[path].B, other[path].B) for path in one)
    made_by = read_json(workspace.results("on_quantized"))["predictions_made_by"]["test"]
    assert (made_by["backend"], made_by["dtype"]) == ("llama_cpp", "q4_1")
    changed = f"{asked} --train_dtype q4_1"
    assert "train_dtype was auto, is q4_1" in mistake_in(changed, run, workspace)
