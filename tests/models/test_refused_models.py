"""Models that can't be used are refused in one line before anything is written: chat templates that fail, missing shards."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from compositional.core.errors import UserError
from compositional.models.chat import ChatEncoder
from compositional.models.model import Model
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
