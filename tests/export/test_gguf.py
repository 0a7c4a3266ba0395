"""GGUF exports, answered by llama.cpp itself."""

from __future__ import annotations

import json
import shlex
import shutil
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
import xllamacpp
from gguf import GGUFReader, dequantize

import export
from compositional.core.errors import UserError
from compositional.core.files import read_json
from compositional.core.workspace import Workspace
from compositional.export.folders import RECORD
from compositional.formats.gguf import pre_tokenizer
from compositional.models.chat import ChatEncoder, instruction
from compositional.models.model import POCKET, Model
from compositional.prediction import AnswerReader
from compositional.prediction.predict import read_predictions
from helpers.planning import plan_of
from helpers.tiny_runs import method_run

FULL = "--adapter_dtype float32 --prediction_backend transformers "
NEW_TOKENS = 12


@pytest.fixture(autouse=True)
def on_a_cpu(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of llama.cpp's server with an export, in float32 throughout."""
    parameters = xllamacpp.CommonParams()
    (base,) = [path for path in folder.glob("base*.gguf") if not path.name.endswith("00002-of-00002.gguf")]
    parameters.model.path = str(base)
    parameters.n_ctx, parameters.n_parallel, parameters.cpuparams.n_threads = 2048, 1, 1
    parameters.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    parameters.cache_type_k = parameters.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    if (folder / "adapter.gguf").is_file():
        parameters.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(str(folder / "adapter.gguf"), 1.0)]
    server = xllamacpp.Server(parameters)
    asked(server.listening_address, "completion", {"prompt": [1], "n_predict": 1})  # closing it before its first request can hang
    yield server.listening_address


def asked(address: str, path: str, request: dict[str, object]) -> dict[str, object]:
    body = urllib.request.Request(
        f"{address}/{path}", data=json.dumps(request).encode(), headers={"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(body, timeout=60) as answer:
        return json.loads(answer.read())


def exported(workspace: Workspace, flags: str) -> Path:
    return export.run([*shlex.split(flags), "--workspace", str(workspace.root)])


@pytest.mark.slow(10)
@pytest.mark.parametrize("method", ["zero_shot", "lc", "lc_pp", "peft_linear", "joint_expert"])
@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
def test_llama_cpp_says_what_transformers_said(architecture, method, tiny_models, single_tasks, workspace, run):
    shutil.copytree(single_tasks(architecture), workspace.root)
    flags = f"{method_run(tiny_models[architecture], method)}{FULL}"
    run(flags)
    folder = exported(workspace, f"--experiment_name {method} --to gguf --dtype float32")
    plan = plan_of(flags, workspace)
    encoder, reader = ChatEncoder(plan.base.tokenizer), AnswerReader(plan.base, plan.base.tokenizer)
    request = instruction(plan.task_set.tasks, plan.arguments.prompt_style)
    predictions = read_predictions(workspace.predictions(method, "test"))
    with served(folder) as address:
        for one in predictions:
            prompt = encoder.prompt(request, one.input, plan.longest_prompt()).ids
            wanted = {"prompt": prompt, "n_predict": NEW_TOKENS, "temperature": 0, "cache_prompt": False, "return_tokens": True}
            assert reader.read(asked(address, "completion", wanted)["tokens"]).text == one.output


@pytest.mark.slow(10)
def test_a_calibrations_biases_are_a_small_file_beside_a_base_that_is_the_same(tiny_models, trained, workspace, run):
    for method in ("lc", "peft_linear"):
        run(f"{method_run(tiny_models['llama'], method)}{FULL}")
    calibrated, merged = (exported(workspace, f"--experiment_name {name} --to gguf") for name in ("lc", "peft_linear"))
    record = read_json(calibrated / RECORD)
    assert record["serve"] == "llama-server -m base-00001-of-00002.gguf --lora adapter.gguf -c 1024"
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
@pytest.mark.parametrize(("dtype", "error"), [("float32", 0), ("float16", 1e-3), ("bfloat16", 8e-3), ("q8_0", 1e-2)])
def test_matrices_are_stored_in_the_precision_that_was_asked_for(dtype, error, tiny_models, trained, workspace, run):
    run(f"{method_run(tiny_models['llama'], 'zero_shot')}{FULL}")
    folder = exported(workspace, f"--experiment_name zero_shot --to gguf --dtype {dtype}")
    kinds = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "q8_0": "Q8_0"}
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
    run(f"{method_run(tiny_models['stablelm'], 'peft_linear')}{FULL}")
    for flags, expected in {
        "--to gguf": "GGUF: stablelm is not written",
        "--to merged --dtype q8_0": "--dtype q8_0 needs --to gguf",
    }.items():
        with pytest.raises(UserError) as caught:
            exported(workspace, f"--experiment_name peft_linear {flags}")
        assert expected in caught.value.mistakes[0]
    assert not (workspace.root / "exports").exists()


def test_a_tokenizer_that_is_no_byte_level_bpe_is_refused(tiny_tokenizer):
    from tokenizers import Tokenizer, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    copied = Tokenizer.from_str(tiny_tokenizer.backend_tokenizer.to_str())
    changed = PreTrainedTokenizerFast(tokenizer_object=copied)
    changed.backend_tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    with pytest.raises(UserError, match="is not written"):
        pre_tokenizer(changed)
