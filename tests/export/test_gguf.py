"""GGUF exports, answered by llama.cpp itself."""

from __future__ import annotations

import json
import shlex
import shutil
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGUFReader, dequantize

import export
from compositional.core.errors import UserError
from compositional.core.files import read_json
from compositional.core.workspace import Workspace
from compositional.export.plan import RECORD
from compositional.formats.gguf import pre_tokenizer
from compositional.models.chat import ChatEncoder
from compositional.models.model import POCKET, Model
from compositional.prediction import AnswerReader
from compositional.prediction.llama_cpp_server import complete
from compositional.prediction.predict import read_predictions
from helpers.planning import plan_of
from helpers.serving import served
from helpers.tiny_runs import method_run

FULL = "--adapter_dtype float32 --prediction_backend transformers "
NEW_TOKENS = 12


@pytest.fixture(autouse=True)
def on_a_cpu(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def asked(address: str, path: str, request: dict[str, object]) -> dict[str, object]:
    body = urllib.request.Request(
        f"{address}/{path}", data=json.dumps(request).encode(), headers={"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(body, timeout=60) as answer:
        return json.loads(answer.read())


def exported(workspace: Workspace, flags: str) -> Path:
    return export.run([*shlex.split(flags), "--workspace", str(workspace.root)])


METHODS = ("zero_shot", "lc", "lc_pp", "peft_linear", "joint_expert")
ARCHITECTURES_AND_METHODS = [(one, method) for one in ("llama", "qwen2") for method in METHODS]
ARCHITECTURES_AND_METHODS += [("llama", "multi_step"), ("stablelm", "lc"), ("stablelm", "lc_pp"), ("stablelm", "multi_step")]
ATTENTION = "--calibration_modules q_proj k_proj v_proj "  # all of StableLM's that llama.cpp adds biases after


@pytest.mark.slow(10)
@pytest.mark.parametrize(("architecture", "method"), ARCHITECTURES_AND_METHODS)
def test_llama_cpp_says_what_transformers_said(architecture, method, tiny_models, single_tasks, workspace, run):
    shutil.copytree(single_tasks(architecture), workspace.root)
    only = ATTENTION if (architecture, method) == ("stablelm", "lc") else ""
    flags = f"{method_run(tiny_models[architecture], method)}{only}{FULL}"
    run(flags)
    folder = exported(workspace, f"--experiment_name {method} --to gguf --dtype float32")
    plan = plan_of(flags, workspace)
    encoder, reader = ChatEncoder(plan.base.tokenizer), AnswerReader(plan.base, plan.base.tokenizer)
    with served(folder) as address:
        for one in read_predictions(workspace.predictions(method, "test")):
            text = one.input
            for step in read_json(folder / RECORD)["requests"]:
                prompt = encoder.prompt(step["instruction"], text, plan.longest_prompt()).ids
                text = reader.read(complete(address, prompt, NEW_TOKENS, lora=step["lora"])["tokens"]).text
            assert text == one.output


@pytest.mark.slow(10)
def test_a_calibrations_biases_are_a_small_file_beside_a_base_that_is_the_same(tiny_models, trained, workspace, run):
    for method in ("lc", "peft_linear"):
        run(f"{method_run(tiny_models['llama'], method)}{FULL}")
    calibrated, merged = (exported(workspace, f"--experiment_name {name} --to gguf") for name in ("lc", "peft_linear"))
    record = read_json(calibrated / RECORD)
    identity = record["adapters"][0]["hash_of_adapter"][:16]
    assert record["serve"] == f"llama-server -m base-00001-of-00002.gguf --lora adapter.gguf --alias {identity} -c 1024"
    assert record["files"]["base-00002-of-00002.gguf"]["bytes"] < 0.2 * record["files"]["base-00001-of-00002.gguf"]["bytes"]
    first, only = (
        {tensor.name: tensor.data for tensor in GGUFReader(path).tensors}
        for path in (calibrated / "base-00001-of-00002.gguf", merged / "base.gguf")
    )
    assert first.keys() == only.keys()
    assert all(np.array_equal(first[name], only[name]) for name in first)
    biases = {tensor.name for tensor in GGUFReader(calibrated / "base-00002-of-00002.gguf").tensors}
    kinds = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    assert biases == {f"blk.{layer}.{kind}.bias" for layer in range(2) for kind in kinds}


@pytest.mark.slow(10)
@pytest.mark.parametrize(("dtype", "error"), [("float32", 0), ("float16", 1e-3), ("bfloat16", 8e-3), ("q8_0", 1e-2), ("q4_1", 0.1)])
def test_matrices_are_stored_in_the_precision_that_was_asked_for(dtype, error, tiny_models, trained, workspace, run):
    run(f"{method_run(tiny_models['llama'], 'zero_shot')}{FULL}")
    folder = exported(workspace, f"--experiment_name zero_shot --to gguf --dtype {dtype}")
    kinds = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "q8_0": "Q8_0", "q4_1": "Q4_1"}
    model = Model(str(tiny_models["llama"])).load(torch.float32).state_dict()
    stored = {tensor.name: tensor for tensor in GGUFReader(folder / "base.gguf").tensors}
    assert {tensor.tensor_type.name for name, tensor in stored.items() if "norm" in name} == {"F32"}
    wide = {
        name: one for name, one in stored.items() if "norm" not in name and "ffn_down" not in name
    }  # whose rows have 48 columns
    assert {tensor.tensor_type.name for tensor in wide.values()} == {kinds[dtype]}
    for name, path in {"blk.1.ffn_up.weight": "model.layers.1.mlp.up_proj", "token_embd.weight": "model.embed_tokens"}.items():
        found, expected = dequantize(stored[name].data, stored[name].tensor_type), model[f"{path}.weight"].numpy()
        assert np.abs(found - expected).max() <= error * np.abs(expected).max()


@pytest.mark.slow(10)
def test_llama_cpp_splits_text_into_the_same_tokens(trained, workspace, run):
    run("--experiment_name z --dataset pocket_dialogs --zero_shot --do_predict --max_test_examples 1 --model_name_or_path pocket")
    folder = exported(workspace, "--experiment_name z --to gguf")
    tokenizer = Model(POCKET).tokenizer
    with served(folder) as address:
        for text in ("Anna will buy 25 red bikes.", "¿Cuándo?  Größe\n\nçà, œuvre!", "<|user|> 日本 🚲", "it's John's  \t9:30"):
            tokens = asked(address, "tokenize", {"content": text, "add_special": False, "parse_special": False})["tokens"]
            assert tokens == tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"], text


@pytest.mark.slow(10)
def test_what_has_no_place_in_gguf_is_a_line(tiny_models, single_tasks, workspace, run):
    shutil.copytree(single_tasks("stablelm"), workspace.root)
    run(f"{method_run(tiny_models['stablelm'], 'lc')}{FULL}")
    for flags, expected in {
        "--to gguf": "llama.cpp's graph of stablelm adds no bias after down_proj, gate_proj, o_proj, up_proj, where this",
        "--to merged --dtype q8_0": "--dtype q8_0 needs --to gguf",
        "--to peft --base_gguf base.gguf": "--base_gguf needs --to gguf",
        "--to gguf --base_gguf base.gguf --dtype q4_1": "--dtype q4_1 contradicts --base_gguf",
    }.items():
        assert expected in mistake_in(workspace, f"--experiment_name lc {flags}")
    assert not (workspace.root / "exports").exists()


def mistake_in(workspace: Workspace, flags: str) -> str:
    with pytest.raises(UserError) as caught:
        exported(workspace, flags)
    (line,) = caught.value.mistakes
    return line


def test_a_tokenizer_that_is_no_byte_level_bpe_is_refused(tiny_tokenizer):
    from tokenizers import Tokenizer, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    copied = Tokenizer.from_str(tiny_tokenizer.backend_tokenizer.to_str())
    changed = PreTrainedTokenizerFast(tokenizer_object=copied)
    changed.backend_tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    with pytest.raises(UserError, match="is not written"):
        pre_tokenizer(changed)
