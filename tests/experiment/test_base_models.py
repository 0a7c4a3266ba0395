"""The base model of an experiment: by whatever name adapters record it, and what it must be like."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, Gemma3Config

from compositional.adapters.lora import LoraAdapter, LoraFactors
from compositional.adapters.peft_folder import CONFIG_FILE, WEIGHTS_FILE, write_adapter
from compositional.core.errors import UserError
from compositional.experiment.arguments import parse_arguments
from compositional.models.model import Model, linear_modules
from helpers.planning import plan_of
from run_experiment import run

COMPOSED = "--dataset pocket_dialogs --secondary_task translation --tgt_lang es --secondary_task_dataset pocket_dialogs_es "
MERGE = f"{COMPOSED}--lora_merge_strategy linear --lora_merge_modules one two --do_predict "


def mistakes_of(command: str, workspace: Any) -> list[str]:
    with pytest.raises(UserError) as caught:
        run([*shlex.split(command), "--experiment_name", "e", "--workspace", str(workspace.root)])
    return list(caught.value.mistakes)


@pytest.fixture
def base(tmp_path) -> Path:
    """A copy of Pocket's base model, which a test may change."""
    return Path(shutil.copytree(Model("pocket").location, tmp_path / "base"))


def changed(base: Path, **settings: Any) -> Path:
    path = base / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    return base


def recorded(folder: Path, name: Any) -> None:
    path = folder / CONFIG_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": name}))


@pytest.fixture
def two(workspace, base) -> dict[str, Path]:
    """Two adapters of `base`; the second may record another name for it."""
    folders = {name: workspace.stored_model(name) for name in ("one", "two")}
    for name, folder in folders.items():
        module, (d_out, d_in) = next(iter(Model("pocket").linear_shapes.items()))
        factors = LoraFactors(torch.ones(2, d_in), torch.full((d_out, 2), 0.01), 1.0)
        write_adapter(folder, LoraAdapter(name, str(base), {module: factors}), "float32")
    return folders


@pytest.mark.parametrize("spelled", ["{}/", "{}/../base", "{}_link"])
def test_one_folder_by_several_names_is_one_base_model(spelled, base, two, workspace):
    base.with_name("base_link").symlink_to(base)
    recorded(two["two"], spelled.format(base))
    for flags in ("", f"--model_name_or_path {base} ", f"--model_name_or_path {spelled.format(base)} "):
        plan = plan_of(f"{flags}{MERGE}--experiment_name e", workspace)
        assert {adapter.base_model for adapter in plan.read_adapters(0)} == {plan.base.name}


@pytest.mark.parametrize("name", [None, ""])
def test_an_adapter_without_a_recorded_base_model_needs_a_named_one(name, base, two, workspace):
    recorded(two["two"], name)
    assert mistakes_of(MERGE, workspace) == ["adapter two does not record its base model: name it with --model_name_or_path"]
    plan = plan_of(f"--model_name_or_path {base} {MERGE}--experiment_name e", workspace)
    assert [adapter.base_model for adapter in plan.read_adapters(0)] == [str(base)] * 2


@pytest.mark.parametrize("name", ["/home/colleague/base", "unsloth/base-bnb-4bit"])
def test_another_recorded_base_model_is_accepted_by_a_flag_that_needs_the_named_one(name, base, two, workspace):
    recorded(two["two"], name)
    for flags in ("", f"--model_name_or_path {base} "):
        (line,) = mistakes_of(f"{flags}{MERGE}", workspace)
        assert line == (
            f"adapter two was trained on {name}, not on {base}: name adapters of one base model, or add "
            "--ignore_recorded_base_model where both names mean the same weights"
        )
    (line,) = mistakes_of(f"--ignore_recorded_base_model {MERGE}", workspace)
    assert line == "--ignore_recorded_base_model needs --model_name_or_path: the base model that is meant"
    plan = plan_of(f"--ignore_recorded_base_model --model_name_or_path {base} {MERGE}--experiment_name e", workspace)
    assert [adapter.base_model for adapter in plan.read_adapters(0)] == [str(base)] * 2


@pytest.mark.parametrize("method", ["bitsandbytes", "gptq", "awq", "fp8"])
def test_quantized_weights_are_refused_before_anything_is_written(method, base, workspace):
    changed(base, quantization_config={"quant_method": method, "bits": 4})
    (line,) = mistakes_of(f"--model_name_or_path {base} {COMPOSED}--zero_shot --do_predict", workspace)
    assert line.startswith(f"--model_name_or_path {base}: its weights are quantized ({method}): name the model that it was made of")
    assert not workspace.predictions_folder("e").exists()


def test_tokens_beyond_the_embeddings_are_refused_where_a_prompt_may_have_them(base, workspace):
    command = f"--model_name_or_path {base} {COMPOSED}--zero_shot --do_predict"
    changed(base, pad_token_id=99999)
    (line,) = mistakes_of(command, workspace)
    assert line == f"--model_name_or_path {base}: pad_token_id 99999 of its config.json is outside its 2048 embeddings"
    changed(base, pad_token_id=0)
    tokenizer = Model("pocket").tokenizer
    tokenizer.add_tokens(["<|image|>"], special_tokens=True)
    tokenizer.save_pretrained(base)
    assert "<|image|>" in Model(str(base)).tokenizer.get_vocab()  # no prompt has it
    tokenizer.pad_token = "<|image|>"
    tokenizer.save_pretrained(base)
    (line,) = mistakes_of(command, workspace)
    assert "the model has 2048 embeddings, and its tokenizer has tokens beyond them (<|image|>)" in line
    assert not workspace.predictions_folder("e").exists()


@pytest.mark.parametrize(
    "method",
    [
        MERGE,
        "--dataset pocket_dialogs --stored_model_name two --do_predict",
        f"{COMPOSED}--auxiliary_lora --secondary_stored_model_name two --do_predict",
        f"{COMPOSED}--multi_step_prompts --prompt_style empty --do_predict --stored_model_name one "
        "--secondary_stored_model_name two",
    ],
    ids=["merge", "LoRA", "auxiliary LoRA", "multi-step"],
)
def test_an_adapter_with_a_value_that_is_no_number_is_refused_by_every_method(method, two, workspace):
    path = two["two"] / WEIGHTS_FILE
    tensors = load_file(path)
    name = sorted(tensors)[-1]
    tensors[name][-1, -1] = float("nan")
    save_file(tensors, path)
    (line,) = mistakes_of(method, workspace)
    assert line == f"{path}: {name} has values that are no numbers: train it again"
    assert not workspace.predictions_folder("e").exists()


def test_a_base_model_with_a_value_that_is_no_number_is_one_line(base):
    path = base / "model.safetensors"
    tensors = load_file(path)
    tensors["model.norm.weight"][3] = float("inf")
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"model\.norm\.weight has values that are no numbers"):
        Model(str(base)).load(torch.float32)


def test_only_the_modules_that_process_text_count():
    text = {"hidden_size": 32, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16, "vocab_size": 100}
    vision = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24, "image_size": 28, "patch_size": 14}
    config = Gemma3Config(
        text_config=text | {"num_hidden_layers": 1, "intermediate_size": 48}, vision_config=vision | {"num_hidden_layers": 1}
    )
    with torch.device("meta"):
        found = linear_modules(AutoModelForCausalLM.from_config(config))
    own = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj")
    inner = ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
    assert set(found) == {"lm_head", *(f"model.language_model.layers.0.{name}" for name in (*own, *inner))}


@pytest.mark.parametrize("flags", ["--merge_datasets a --merge_datasets b", "--merge_datasets a --merge_datasets=b"])
def test_a_list_that_stands_there_twice_is_a_mistake(flags):
    assert parse_arguments(shlex.split(flags))[1] == ["--merge_datasets stands there twice: name all its values after one"]
    assert parse_arguments(shlex.split("--lora_merge_options a=1 --lora_merge_options b=2"))[1] == []


def test_a_list_that_stands_in_one_file_twice_is_a_mistake(tmp_path):
    inner, outer = tmp_path / "inner.txt", tmp_path / "outer.txt"
    inner.write_text("--merge_datasets a\n--for_each_component\n--merge_datasets=b\n")
    outer.write_text(f"--seed 1 @{inner}")
    fault = f"@{inner}: --merge_datasets stands there twice: name all its values after one"
    for words in ([f"@{inner}"], [f"@{outer}", "--seed", "2"], [f"@{inner}", f"@{outer}"]):
        assert parse_arguments(words)[1] == [fault]
    inner.write_text("--merge_datasets a\n--lora_merge_options a=1\n--lora_merge_options b=2\n")
    outer.write_text(f"@{inner} --merge_datasets b")
    arguments, mistakes = parse_arguments([f"@{inner}", f"@{outer}"])
    assert (arguments.merge_datasets, mistakes) == (["b"], [])


def test_a_list_may_replace_that_of_a_file_of_flags(tmp_path):
    (tmp_path / "flags.txt").write_text("--lora_target_modules q_proj v_proj\n")
    arguments, mistakes = parse_arguments([f"@{tmp_path}/flags.txt", "--lora_target_modules", "k_proj"])
    assert (arguments.lora_target_modules, mistakes) == (["k_proj"], [])
