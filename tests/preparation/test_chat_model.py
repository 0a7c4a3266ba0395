"""The text model `chat`: any chat model and LoRA, prompted as in an experiment, makes the targets of a composed set."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
import torch

from compositional.adapters.lora import LoraAdapter, LoraFactors
from compositional.adapters.peft_folder import StoredAdapter, write_adapter
from compositional.core.errors import UserError
from compositional.core.files import read_json
from compositional.models.chat import ChatEncoder, instruction
from compositional.models.model import Model
from compositional.prediction import PredictionSettings
from compositional.prediction.transformers_backend import TransformersGenerator
from compositional.preparation.__main__ import run
from compositional.preparation.text_models import TextModelSettings, find_text_model
from compositional.tasks import find_task
from helpers.calibrating import random_merge

PROFESSIONAL = find_task("tone_adjustment", "professional")
TEXTS = ["I don't like the long hours.", "See you at noon!", "¿Qué tal? 😀"]


@pytest.fixture(autouse=True)
def on_a_cpu(monkeypatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)


@pytest.fixture
def adapter(tiny_models, tmp_path) -> Path:
    write_adapter(tmp_path / "adapter", random_merge(tiny_models["llama"]), "float32")
    return tmp_path / "adapter"


def chat(task, *named: str, **options):
    kind = "--translator" if task.name == "translation" else "--tone_rewriter"
    return find_text_model("chat", task, TextModelSettings(*named, dtype="float32", **options), kind)


@pytest.mark.parametrize("task", [PROFESSIONAL, find_task("translation", "de")], ids=lambda task: task.name)
def test_its_texts_are_the_models_answers_to_the_projects_prompts(task, tiny_models, adapter):
    base = Model(str(tiny_models["llama"]))
    rewriter = chat(task, base.name, str(adapter))
    rewriter.check()
    rewriter.start()
    made = rewriter.rewrite(TEXTS)
    settings = PredictionSettings("transformers", 512, 512, 64, "float32")
    for with_adapter, equal in ((StoredAdapter(adapter), True), (None, False)):
        generator = TransformersGenerator(base, with_adapter, settings)
        prompts = [ChatEncoder(base.tokenizer).prompt(instruction((task,)), text, 512).ids for text in TEXTS]
        assert (made == [answer.text for answer in generator.answers(prompts)]) is equal
    rewriter.stop()


def test_what_decides_its_texts_is_its_identity(tiny_models, adapter):
    named = (str(tiny_models["llama"]), str(adapter))
    one = chat(PROFESSIONAL, *named).identity()
    others = [
        chat(PROFESSIONAL, named[0]).identity(),
        chat(find_task("tone_adjustment", "witty"), *named).identity(),
        chat(PROFESSIONAL, str(tiny_models["qwen2"]), named[1]).identity(),
    ]
    assert one == chat(PROFESSIONAL, *named).identity()
    assert one not in others


def test_what_is_missing_or_does_not_fit_is_one_line(tiny_models, adapter, tmp_path):
    with pytest.raises(UserError, match="--tone_rewriter chat needs a model: --tone_rewriter_model"):
        chat(PROFESSIONAL)
    with pytest.raises(UserError, match="no such folder"):
        chat(PROFESSIONAL, str(tmp_path / "nowhere")).check()
    other = LoraAdapter("other", "", {"model.layers.0.self_attn.q_proj": LoraFactors(torch.zeros(2, 10), torch.zeros(10, 2), 1.0)})
    write_adapter(tmp_path / "other", other, "float32")
    with pytest.raises(UserError, match=r"--tone_rewriter_adapter .* it can't be used with"):
        chat(PROFESSIONAL, str(tiny_models["llama"]), str(tmp_path / "other")).start()
    d_out, d_in = Model(str(tiny_models["llama"])).linear_shapes["lm_head"]
    tied = LoraAdapter("tied", "", {"lm_head": LoraFactors(torch.ones(2, d_in), torch.ones(d_out, 2), 1.0)})
    write_adapter(tmp_path / "tied", tied, "float32")
    with pytest.raises(UserError, match=r"--tone_rewriter_adapter .*tied: lm_head of .* is tied to the embeddings"):
        chat(PROFESSIONAL, str(tiny_models["llama"]), str(tmp_path / "tied")).start()
    command = "--only dialogsum_es --translator marian --translator_adapter some/adapter"
    with pytest.raises(UserError, match="--translator_adapter: the translator marian takes no adapter; --translator chat does"):
        run([*shlex.split(command), "--workspace", str(tmp_path)])


@pytest.mark.slow
def test_it_makes_a_composed_set_and_is_recorded_with_it(tiny_models, adapter, tmp_path):
    raw = tmp_path / "raw"
    raw.mkdir()
    header = "user 1 personas,user 2 personas,Best Generated Conversation\n"
    for number, name in enumerate(("train", "valid", "test")):
        talk = f'"User 1: Hello, I am {number}.\nUser 2: Hi {number}, how are you?\nUser 1: Fine, thanks, and you?"'
        (raw / f"Synthetic-Persona-Chat_{name}.csv").write_text(f"{header}a,b,{talk}\n")
    named = f"--tone_rewriter chat --tone_rewriter_model {tiny_models['llama']} --tone_rewriter_adapter {adapter}"
    command = f"--only synthetic_persona_chat_professional {named} --raw_data_dir {raw} --length_models pocket"
    run([*shlex.split(command), "--workspace", str(tmp_path)])
    record = read_json(tmp_path / "data" / "synthetic_persona_chat_professional" / "preparation.json")
    made_by = record["made_from"]["text_model"]
    assert made_by["name"] == "chat"
    assert made_by["adapter"] == Model(str(adapter)).identity
    assert record["rewritten_by"][0]["backend"] == "transformers"
    assert all(counts["kept"] == 2 for counts in record["counts"].values())
