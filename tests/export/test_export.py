"""Exports, each loaded by the tool that it is for: PEFT, transformers and vLLM."""

from __future__ import annotations

import hashlib
import json
import shlex
import shutil
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

import export
from compositional.adapters.peft_folder import hash_of_adapter, read_adapter
from compositional.core.errors import UserError
from compositional.core.files import read_json
from compositional.core.recorded import read_recorded
from compositional.core.workspace import Workspace
from compositional.export.plan import RECORD
from compositional.prediction.predict import read_predictions
from helpers import ARCHITECTURES
from helpers.composing import folded
from helpers.preparing import files_in
from helpers.tiny_runs import COMPOSED, LENGTHS, TINY_RUN, ZERO_SHOT, method_run

ATTENTION = "--calibration_modules q_proj k_proj v_proj "
FULL = "--adapter_dtype float32 --prediction_backend transformers "


@pytest.fixture(autouse=True)
def on_a_cpu(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def exported(workspace: Workspace, flags: str) -> Path:
    return export.run([*shlex.split(flags), "--workspace", str(workspace.root)])


def outputs(workspace: Workspace, experiment: str) -> list[str]:
    return [one.output for one in read_predictions(workspace.predictions(experiment, "test"))]


def mistakes_in(workspace: Workspace, flags: str) -> list[str]:
    """The mistakes in a command, which writes nothing."""
    before = files_in(workspace.root)
    with pytest.raises(UserError) as caught:
        exported(workspace, flags)
    assert files_in(workspace.root) == before
    return list(caught.value.mistakes)


@pytest.mark.slow(10)
@pytest.mark.parametrize("method", ["lc", "lc_pp", "peft_linear", "joint_expert"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_merged_model_alone_says_what_the_experiment_said(architecture, method, tiny_models, single_tasks, workspace, run):
    shutil.copytree(single_tasks(architecture), workspace.root)
    only = ATTENTION if (architecture, method) == ("stablelm", "lc") else ""
    run(f"{method_run(tiny_models[architecture], method)}{only}{FULL}")
    folder = exported(workspace, f"--experiment_name {method} --to merged --dtype float32")
    run(f"{TINY_RUN}{LENGTHS}{COMPOSED}--experiment_name alone --model_name_or_path {folder} --zero_shot --do_predict {FULL}")
    run(f"{method_run(tiny_models[architecture], 'zero_shot')}{FULL}")
    assert outputs(workspace, "alone") == outputs(workspace, method)
    assert outputs(workspace, "alone") != outputs(workspace, "zero_shot")


@pytest.mark.slow(40)
def test_vllm_loads_a_merged_calibration(tiny_models, trained, workspace, run):
    run(f"{method_run(tiny_models['llama'], 'lc')}{FULL}")
    folder = exported(workspace, "--experiment_name lc --dtype float32")
    asked = f"{TINY_RUN}{LENGTHS}{COMPOSED}--experiment_name alone --model_name_or_path {folder} --zero_shot --do_predict "
    run(f"{asked}--prediction_backend vllm --prediction_dtype float32")
    assert outputs(workspace, "alone") == outputs(workspace, "lc")


@pytest.mark.slow(10)
@pytest.mark.parametrize("method", ["lc_pp", "peft_linear"])
def test_peft_loads_an_adapter_with_everything_in_it(method, tiny_models, trained, workspace, run):
    run(f"{method_run(tiny_models['llama'], method)}{FULL}")
    folder = exported(workspace, f"--experiment_name {method} --to peft --dtype float32")
    ids = torch.arange(20).unsqueeze(0)
    with torch.no_grad():
        loaded = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_models["llama"]), str(folder))
        expected = folded(tiny_models["llama"], [read_adapter(workspace.stored_model(method))], [1.0])
        torch.testing.assert_close(loaded(input_ids=ids).logits, expected(input_ids=ids).logits, rtol=1e-3, atol=1e-4)
    assert sorted(path.name for path in folder.iterdir()) == ["adapter_config.json", "adapter_model.safetensors", RECORD]


@pytest.mark.slow(10)
def test_the_record_names_what_was_exported_and_its_files(tiny_models, trained, workspace, run):
    run(f"{method_run(tiny_models['llama'], 'peft_linear')}{FULL}")
    folder = exported(workspace, "--experiment_name peft_linear --dtype bfloat16")
    record = read_json(folder / RECORD)
    assert (record["experiment"], record["to"], record["dtype"]) == ("peft_linear", "merged", "bfloat16")
    assert record["files"].keys() == {path.name for path in folder.iterdir()} - {RECORD}
    for name, one in record["files"].items():
        content = (folder / name).read_bytes()
        assert one == {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    fault = f"{folder} is there already, with other content: --overwrite replaces it"
    assert mistakes_in(workspace, "--experiment_name peft_linear") == [fault]
    assert exported(workspace, "--experiment_name peft_linear --dtype bfloat16") == folder
    assert read_json(folder / RECORD) == record
    weights = next(folder.glob("*.safetensors"))
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert mistakes_in(workspace, "--experiment_name peft_linear --dtype bfloat16") == [fault]
    assert exported(workspace, "--experiment_name peft_linear --overwrite --dtype float16") == folder
    assert read_json(folder / RECORD)["dtype"] == "float16"


def test_a_tokenizer_with_several_chat_templates_is_exported_with_all_of_them(tiny_models, workspace, run, tmp_path):
    model = shutil.copytree(tiny_models["llama"], tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.chat_template = {"default": tokenizer.chat_template, "tool_use": tokenizer.chat_template}
    tokenizer.save_pretrained(model)
    run(f"{ZERO_SHOT}--model_name_or_path {model} --do_predict {FULL}")
    folder = exported(workspace, "--experiment_name z")
    assert "additional_chat_templates/tool_use.jinja" in read_json(folder / RECORD)["files"]
    assert AutoTokenizer.from_pretrained(folder).chat_template == tokenizer.chat_template
    assert exported(workspace, "--experiment_name z") == folder


def test_an_experiment_that_is_running_is_not_exported_and_what_a_command_reads_is_kept(tiny_models, workspace, run):
    run(f"{ZERO_SHOT}--model_name_or_path {tiny_models['llama']} --do_predict {FULL}")
    with workspace.locked(experiment="z"), pytest.raises(UserError, match="experiment z is in use by another run"):
        exported(workspace, "--experiment_name z")
    flags = workspace.root / "exports" / "z" / "merged" / "flags.txt"
    flags.parent.mkdir(parents=True)
    flags.write_text("--overwrite")
    expected = f"@{flags} lies in {flags.parent}, which --overwrite would replace: move it first"
    assert mistakes_in(workspace, f"--experiment_name z @{flags}") == [expected]


def test_an_export_that_another_call_has_written_meanwhile_is_not_replaced(tiny_models, workspace, run, monkeypatch):
    run(f"{ZERO_SHOT}--model_name_or_path {tiny_models['llama']} --do_predict {FULL}")
    locked = Workspace.locked

    def locked_after_another_call(self, **held):
        monkeypatch.setattr(Workspace, "locked", locked)
        exported(workspace, "--experiment_name z --dtype bfloat16")
        return locked(self, **held)

    monkeypatch.setattr(Workspace, "locked", locked_after_another_call)
    with pytest.raises(UserError, match="is there already, with other content"):
        exported(workspace, "--experiment_name z --dtype float16")
    assert read_json(workspace.root / "exports" / "z" / "merged" / RECORD)["dtype"] == "bfloat16"


@pytest.mark.slow(10)
def test_what_can_not_be_exported_is_a_line_and_writes_nothing(tiny_models, single_tasks, workspace, run, monkeypatch):
    shutil.copytree(single_tasks("stablelm"), workspace.root)
    for method in ("lc", "multi_step", "zero_shot"):
        run(f"{method_run(tiny_models['stablelm'], method)}{FULL}")
    cases = {
        "--experiment_name lc": "--to merged: stablelm has no place for biases of down_proj, gate_proj, o_proj, up_proj",
        "--experiment_name lc --to peft": "PEFT's LoRA has no place for its biases: use --to merged",
        "--experiment_name zero_shot --to peft": "answers with the base model alone, and has no adapter",
        "--experiment_name multi_step": "answers in several steps, each with an adapter of its own: --to gguf exports them all",
        "--experiment_name zero_shto": "did you mean zero_shot?",
        "": "--experiment_name is missing",
        "--experiment_name lc --to gguff": "gguff",
    }
    for flags, expected in cases.items():
        (line,) = mistakes_in(workspace, flags)
        assert expected in line
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9 - 1000, 1000))
        (line,) = mistakes_in(workspace, "--experiment_name zero_shot")
    assert line == f"--workspace {workspace.root}: about 1 MB will be written, and 1 MB are free"
    assert not (workspace.root / "exports").exists()
    config = workspace.stored_model("lc") / "adapter_config.json"
    config.write_text(config.read_text() + "\n")
    assert "has changed since it answered" in mistakes_in(workspace, "--experiment_name lc --dtype float32")[0]
    shutil.rmtree(workspace.stored_model("lc"))
    assert "is missing: run it again" in mistakes_in(workspace, "--experiment_name lc")[0]


@pytest.mark.slow(10)
def test_values_that_the_precision_can_not_hold_are_refused(tiny_models, trained, workspace, run):
    run(f"{method_run(tiny_models['llama'], 'peft_linear')}{FULL}")
    config = workspace.stored_model("peft_linear") / "adapter_config.json"
    settings = json.loads(config.read_text())
    config.write_text(json.dumps(settings | {"lora_alpha": 1e9}))
    results = workspace.results("peft_linear")
    recorded = read_recorded(results)
    recorded["settings"]["hash_of_adapter"] = hash_of_adapter(config.parent)
    results.write_text(json.dumps(recorded))
    for to in ("merged", "gguf"):
        with pytest.raises(UserError, match="too large for float16"):
            exported(workspace, f"--experiment_name peft_linear --dtype float16 --to {to}")
    assert not list((workspace.root / "exports").glob("**/*.*"))
