"""Models that can't be used are refused in one line before anything is written.

Their chat templates fail, weights are missing, or settings are damaged.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from compositional.core.errors import UserError
from compositional.models.chat import ChatEncoder
from compositional.models.model import Model
from compositional.prediction import TRANSFORMERS, PredictionSettings
from compositional.prediction.transformers_backend import TransformersGenerator
from helpers.tiny_runs import ZERO_SHOT

INDEX = "model.safetensors.index.json"


@pytest.fixture
def model(tiny_models, tmp_path) -> Path:
    """A copy of the tiny Llama, to be changed."""
    return shutil.copytree(tiny_models["llama"], tmp_path / "model")


def refused(run, model: Path) -> str:
    """The one line in which an experiment with the model is refused."""
    with pytest.raises(UserError) as caught:
        run(f"{ZERO_SHOT}--model_name_or_path {model} --do_predict")
    (line,) = caught.value.mistakes
    return line


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{{ raise_exception('system prompt needed') }}", "can't be used: system prompt needed (TemplateError)"),
        ("{% for m in messages %}{{ m.content }}", "can't be used: Unexpected end of template."),
        ("{{ messages[0].content | no_such }}", "can't be used: No filter named 'no_such'"),
        ("{{ messages[7].content }}", "can't be used: list object has no element 7 (UndefinedError)"),
        ("{{ messages[0].content + 1 }}", "can't be used: can only concatenate str"),
        ("{{ 1 / 0 }}", "can't be used: division by zero (ZeroDivisionError)"),
        ("{{ messages.clear() }}", "can't be used: "),
        (
            "{% for m in messages %}{% for part in m.content %}{{ part.text }}{% endfor %}{% endfor %}",
            "leaves out what the user says",
        ),
    ],
)
def test_a_chat_template_that_does_not_work_is_one_line(template, expected, run, workspace, model):
    (model / "chat_template.jinja").write_text(template)
    line = refused(run, model)
    assert line.startswith(f"the chat template of {model} ")
    assert expected in line
    assert not workspace.root.exists()


def test_several_chat_templates_need_a_default(run, workspace, model):
    plain = (model / "chat_template.jinja").read_text()
    (model / "additional_chat_templates").mkdir()
    (model / "additional_chat_templates" / "rag.jinja").write_text("{{ messages[0].content }}")
    assert Model(str(model)).tokenizer.chat_template["default"] == plain
    (model / "chat_template.jinja").unlink()
    assert refused(run, model) == f"the tokenizer of {model} has several chat templates (rag) and none named default"
    assert not workspace.root.exists()


def test_a_chat_template_that_fails_on_one_text_only_is_one_line(tiny_tokenizer):
    encoder = ChatEncoder(tiny_tokenizer)
    failing = "{% if 'x' in messages[0].content %}{{ raise_exception('no x') }}{% endif %}"
    encoder.tokenizer.chat_template, kept = failing + tiny_tokenizer.chat_template, tiny_tokenizer.chat_template
    try:
        assert encoder.prompt("Repeat", "a", 64).ids
        with pytest.raises(UserError, match="can't be used: no x"):
            encoder.prompt("Repeat", "x", 64)
    finally:
        tiny_tokenizer.chat_template = kept


def in_shards(model: Path) -> dict[str, str]:
    """Store a model's weights in two files with an index; returns the file of each tensor."""
    tensors = load_file(model / "model.safetensors")
    (model / "model.safetensors").unlink()
    shard_of = {name: f"model-0000{number % 2 + 1}-of-00002.safetensors" for number, name in enumerate(tensors)}
    for shard in set(shard_of.values()):
        own = {name: tensors[name].clone() for name in tensors if shard_of[name] == shard}
        save_file(own, model / shard, metadata={"format": "pt"})
    (model / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": shard_of}))
    return shard_of


def test_a_model_in_shards_is_read(run, workspace, model):
    in_shards(model)
    run(f"{ZERO_SHOT}--model_name_or_path {model} --do_predict")
    assert workspace.results("z").is_file()


def test_a_missing_shard_is_one_line_before_anything_is_written(run, workspace, model):
    shard_of = in_shards(model)
    second = model / "model-00002-of-00002.safetensors"
    tensors = load_file(second)
    second.unlink()
    flag = f"--model_name_or_path {model}"
    assert refused(run, model) == f"{flag}: the folder lacks {second.name}, which {INDEX} names"
    absent = next(name for name, shard in shard_of.items() if shard == second.name)
    save_file({name: tensors[name] for name in tensors if name != absent}, second, metadata={"format": "pt"})
    assert refused(run, model) == f"{flag}: {second.name} lacks {absent}, which {INDEX} expects in it"
    (model / INDEX).write_text("{}")
    assert refused(run, model).startswith(f"{model / INDEX} is damaged: weight_map is expected in it")
    (model / INDEX).unlink()
    assert refused(run, model) == f"{flag}: the folder has neither model.safetensors nor {INDEX}"
    assert not workspace.root.exists()


def changed(model: Path, **tensors: torch.Tensor | None) -> None:
    """Put tensors in place of a model's own, by name; None leaves one out."""
    path = model / "model.safetensors"
    new = load_file(path) | {name.replace("__", "."): tensor for name, tensor in tensors.items()}
    save_file({name: tensor for name, tensor in new.items() if tensor is not None}, path, metadata={"format": "pt"})


@pytest.mark.parametrize("in_several_files", [False, True])
def test_missing_weights_are_named_before_anything_is_written(in_several_files, run, workspace, model):
    """transformers would answer with random ones."""
    names = ("model.norm.weight", "model.layers.1.mlp.up_proj.weight")
    changed(model, **{name.replace(".", "__"): None for name in names})
    if in_several_files:
        in_shards(model)
    expected = f"--model_name_or_path {model}: its files lack weights of the model: {names[1]}, {names[0]}"
    assert refused(run, model) == expected
    assert not workspace.root.exists()
    with pytest.raises(UserError) as caught:
        Model(str(model)).load(torch.float32)
    assert list(caught.value.mistakes) == [expected]


def test_many_missing_weights_are_counted(run, workspace, model):
    names = [name for name in load_file(model / "model.safetensors") if ".layers.0." in name]
    changed(model, **{name.replace(".", "__"): None for name in names})
    assert refused(run, model).endswith(f"{', '.join(sorted(names)[:3])}, … ({len(names)} in all)")


def test_weights_of_other_shapes_are_named_before_anything_is_written(run, workspace, model):
    changed(model, model__norm__weight=torch.ones(7))
    expected = f"--model_name_or_path {model}: its weights do not fit its config.json: model.norm.weight is 7, not 64"
    assert refused(run, model) == expected
    assert not workspace.root.exists()


def test_a_tied_head_needs_no_weights_and_further_tensors_do_no_harm(model):
    tensors = load_file(model / "model.safetensors")
    assert "lm_head.weight" not in tensors
    changed(model, model__layers__0__self_attn__rotary_emb__inv_freq=torch.ones(16), other=torch.ones(2))
    Model(str(model)).check_weights()
    changed(model, lm_head__weight=tensors["model.embed_tokens.weight"].clone(), model__embed_tokens__weight=None)
    Model(str(model)).check_weights()
    found = Model(str(model)).load(torch.float32)
    torch.testing.assert_close(found.get_input_embeddings().weight, tensors["model.embed_tokens.weight"])


def with_settings(path: Path, **settings: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("{", "{path}: not a JSON file (Expecting property name enclosed in double quotes"),
        ("[]", "{path} is damaged: a JSON object is expected"),
        ("null", "{path} is damaged: a JSON object is expected"),
        ('{"eos_token_id": "x"}', "{flag}: its generation_config.json is damaged: eos_token_id is 'x', a token's id or a list of"),
        ('{"eos_token_id": [1, null]}', "{flag}: its generation_config.json is damaged: eos_token_id is [1, None], a token's id"),
        ('{"eos_token_id": {"a": 1}}', "{flag}: its generation_config.json is damaged: eos_token_id is {'a': 1}, a token's id"),
        ('{"max_new_tokens": "x"}', "{flag} could not be loaded: "),
    ],
)
def test_damaged_generation_settings_are_one_line(content, expected, run, workspace, model):
    path = model / "generation_config.json"
    path.write_text(content)
    line = refused(run, model)
    assert line.startswith(expected.replace("{path}", str(path)).replace("{flag}", f"--model_name_or_path {model}"))
    assert not workspace.root.exists()


@pytest.mark.parametrize(
    ("file", "settings", "expected"),
    [
        ("config.json", {"num_hidden_layers": "two"}, "Validation error for field 'num_hidden_layers': TypeError: Field"),
        ("config.json", {"hidden_act": "nope"}, "'nope' (KeyError)"),
        ("config.json", {"num_attention_heads": 0}, "(ZeroDivisionError)"),
        ("config.json", {"rope_parameters": {"rope_type": "nope"}}, "'nope' (KeyError)"),
        ("tokenizer_config.json", {"eos_token": 5}, "Special token eos_token has to be either str or AddedToken"),
        ("tokenizer_config.json", {"model_max_length": "x"}, "'>' not supported between instances of 'int' and 'str' (TypeError)"),
        ("tokenizer_config.json", {"added_tokens_decoder": 5}, "'int' object has no attribute 'items' (AttributeError)"),
    ],
)
def test_settings_that_transformers_can_not_use_are_one_line(file, settings, expected, run, workspace, model):
    with_settings(model / file, **settings)
    line = refused(run, model)
    assert line.startswith(f"--model_name_or_path {model} could not be loaded: ")
    assert expected in line
    assert not workspace.root.exists()


@pytest.mark.parametrize("batch", [1, 3])
def test_logits_that_are_no_numbers_give_no_answers(batch, run, workspace, model):
    changed(model, model__norm__weight=torch.full((64,), 1e38))
    expected = (
        f"--model_name_or_path {model} answers with values that are no numbers (NaN or infinite logits): its weights, or the "
        "adapter's, are too large"
    )
    base = Model(str(model))
    generator = TransformersGenerator(base, None, PredictionSettings(TRANSFORMERS, 8, 512, 3, "float32"))
    prompts = [ChatEncoder(base.tokenizer).prompt("Repeat", f"Text {number}.", 64).ids for number in range(batch)]
    for answer in (lambda: generator.answers(prompts), lambda: list(generator.stream(prompts[0]))):
        with pytest.raises(UserError) as caught:
            answer()
        assert list(caught.value.mistakes) == [expected]
    assert refused(run, model) == expected
    assert not workspace.results("z").exists()
    assert not workspace.predictions("z", "test").exists()
