"""Exports beside a GGUF file of the base model that the user has already."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

import pytest
import torch
from gguf import GGUFReader
from transformers import AutoModelForCausalLM, AutoTokenizer

import export
from compositional.core.errors import UserError
from compositional.core.files import read_json
from compositional.core.workspace import Workspace
from compositional.export.plan import RECORD
from compositional.formats import gguf as gguf_files
from compositional.formats.gguf_forms import gguf_form
from compositional.models.chat import ChatEncoder
from compositional.models.model import Model
from compositional.prediction import AnswerReader
from compositional.prediction.llama_cpp_server import complete
from compositional.prediction.predict import read_predictions
from helpers.planning import plan_of
from helpers.preparing import files_in
from helpers.serving import served
from helpers.tiny_runs import method_run

FULL = "--adapter_dtype float32 --prediction_backend transformers "
ATTENTION = "--calibration_modules q_proj k_proj v_proj "


@pytest.fixture(autouse=True)
def on_a_cpu(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def exported(workspace: Workspace, flags: str) -> Path:
    return export.run([*shlex.split(flags), "--to", "gguf", "--workspace", str(workspace.root)])


def own_base(folder: Path, model: Path, dtype: str, architecture: str, monkeypatch) -> Path:
    """A file of a model as other tools write it: Qwen2 is then an architecture of its own."""
    monkeypatch.setattr(gguf_files, "gguf_form", lambda base: gguf_form(base, architecture))
    (path,) = gguf_files.write_base(folder / "own.gguf", Model(str(model)), dtype, {})
    return path


def mistake_in(workspace: Workspace, flags: str) -> str:
    before = files_in(workspace.root)
    with pytest.raises(UserError) as caught:
        exported(workspace, flags)
    assert files_in(workspace.root) == before
    (line,) = caught.value.mistakes
    return line


@pytest.mark.slow(10)
@pytest.mark.parametrize(("architecture", "method"), [("llama", "lc"), ("llama", "lc_pp"), ("qwen2", "lc"), ("stablelm", "linear")])
def test_an_adapter_fits_the_users_own_base(architecture, method, tiny_models, single_tasks, workspace, run, tmp_path, monkeypatch):
    shutil.copytree(single_tasks(architecture), workspace.root)
    flags = f"{method_run(tiny_models[architecture], method)}{ATTENTION if architecture == 'qwen2' else ''}{FULL}"
    run(flags)
    own = own_base(tmp_path, tiny_models[architecture], "float32", architecture, monkeypatch)
    folder = exported(workspace, f"--experiment_name {method} --dtype float32 --base_gguf {own}")
    record = read_json(folder / RECORD)
    assert record["base_gguf"]["relative_difference"] < 1e-6
    bases = ["base-00001-of-00002.gguf", "base-00002-of-00002.gguf"] if method == "lc" else []
    assert sorted(record["files"]) == ["adapter.gguf", *bases]
    plan = plan_of(flags, workspace)
    encoder, reader = ChatEncoder(plan.base.tokenizer), AnswerReader(plan.base, plan.base.tokenizer)
    with served(folder) as address:
        for one in read_predictions(workspace.predictions(method, "test")):
            prompt = encoder.prompt(plan.requests[0], one.input, plan.longest_prompt()).ids
            assert reader.read(complete(address, prompt, plan.arguments.max_new_tokens)["tokens"]).text == one.output


@pytest.mark.slow(10)
def test_the_users_tensors_are_kept_byte_for_byte_beside_biases(tiny_models, trained, workspace, run, tmp_path, monkeypatch):
    run(f"{method_run(tiny_models['llama'], 'lc')}{FULL}")
    own = own_base(tmp_path, tiny_models["llama"], "q4_1", "llama", monkeypatch)
    folder = exported(workspace, f"--experiment_name lc --base_gguf {own}")
    assert 0.01 < read_json(folder / RECORD)["base_gguf"]["relative_difference"] < 0.2
    before, after = GGUFReader(own), GGUFReader(folder / "base-00001-of-00002.gguf")
    assert {one.name: bytes(one.data) for one in before.tensors} == {one.name: bytes(one.data) for one in after.tensors}
    added = {"split.no", "split.count", "split.tensors.count"}
    assert after.fields.keys() == before.fields.keys() | added
    inside = shutil.copy(own, folder / "own.gguf")
    expected = f"--base_gguf {inside} lies in {folder}, which --overwrite would replace: move it first"
    assert mistake_in(workspace, f"--experiment_name lc --base_gguf {inside} --overwrite") == expected
    settings = [name for name in before.fields if not name.startswith("GGUF.")]
    assert all(after.fields[name].contents() == before.fields[name].contents() for name in settings)


@pytest.mark.slow(10)
def test_what_is_not_the_base_model_is_a_line_and_writes_nothing(tiny_models, trained, workspace, run, tmp_path, monkeypatch):
    run(f"{method_run(tiny_models['llama'], 'linear')}{FULL}")
    asked = "--experiment_name linear --base_gguf"
    text, cut, other = tmp_path / "text.gguf", tmp_path / "cut.gguf", tmp_path / "other"
    text.write_text("not GGUF at all, but long enough to have a header")
    own = own_base(tmp_path, tiny_models["llama"], "float16", "llama", monkeypatch)
    cut.write_bytes(own.read_bytes()[:-5000])
    model = AutoModelForCausalLM.from_pretrained(tiny_models["llama"])
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    model.save_pretrained(other)
    AutoTokenizer.from_pretrained(tiny_models["llama"]).save_pretrained(other)
    (tmp_path / "2").mkdir()
    (tmp_path / "3").mkdir()
    weights = own_base(tmp_path / "2", other, "float16", "llama", monkeypatch)
    stablelm = own_base(tmp_path / "3", tiny_models["stablelm"], "float16", "stablelm", monkeypatch)
    pocket = tmp_path / "pocket.gguf"
    monkeypatch.setattr(gguf_files, "gguf_form", gguf_form)
    gguf_files.write_base(pocket, Model("pocket"), "float16", {})
    for path, expected in {
        tmp_path / "missing.gguf": "there is no such file",
        text: "not a whole GGUF file",
        cut: "not a whole GGUF file",
        stablelm: "its architecture is stablelm",
        pocket: "token_embd.weight is 2048 × 192 in the file",
        weights: "and other weights: they differ by",
    }.items():
        assert expected in mistake_in(workspace, f"{asked} {path}"), path
    exported(workspace, f"{asked} {own}")


@pytest.mark.slow(10)
def test_a_qwen2_file_has_no_place_for_all_biases(tiny_models, single_tasks, workspace, run, tmp_path, monkeypatch):
    shutil.copytree(single_tasks("qwen2"), workspace.root)
    run(f"{method_run(tiny_models['qwen2'], 'lc')}{FULL}")
    own = own_base(tmp_path, tiny_models["qwen2"], "float16", "qwen2", monkeypatch)
    line = mistake_in(workspace, f"--experiment_name lc --base_gguf {own}")
    assert "llama.cpp's graph of qwen2 adds no bias after down_proj" in line
    assert "without --base_gguf, Qwen2 is written as llama" in line
