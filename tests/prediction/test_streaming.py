"""Answers token by token: the last is the whole answer, each goes on from the one before, and closing ends the work."""

from __future__ import annotations

import gc
from itertools import islice, pairwise

import pytest
import torch

from compositional.models.chat import ChatEncoder
from compositional.models.model import Model
from compositional.prediction import LLAMA_CPP, TRANSFORMERS, PredictionSettings, make_generator
from compositional.prediction.transformers_backend import TransformersGenerator
from compositional.prediction.vllm_backend import Engines
from helpers.chat_models import build_scripted_model

TEXTS = ["We meet at noon.", "Ça va? 😀 ¿Dónde está la Brücke?", "Tom: I lost a key.\nMia: Where?", "x" * 50]


def settings(backend: str, new_tokens: int = 24) -> PredictionSettings:
    return PredictionSettings(backend, new_tokens, max_prompt_length=256, batch_size=4, dtype="float32")


@pytest.fixture(autouse=True)
def on_a_cpu(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def test_a_stream_goes_on_token_by_token_and_ends_with_the_whole_answer(tiny_models):
    base = Model(str(tiny_models["llama"]))
    generator = TransformersGenerator(base, None, settings(TRANSFORMERS))
    for text in TEXTS:
        prompt = ChatEncoder(base.tokenizer).prompt("Repeat", text, 256).ids
        streamed = list(generator.stream(prompt))
        (whole,) = generator.answers([prompt])
        assert streamed[-1] == whole
        assert len(streamed) >= len(whole.tokens) > 3
        for before, after in pairwise(streamed):
            assert after.tokens[: len(before.tokens)] == before.tokens


@pytest.mark.parametrize("backend", [TRANSFORMERS, LLAMA_CPP])
@pytest.mark.parametrize("new_tokens", [24, 9])
def test_an_answer_whose_characters_have_several_tokens_is_streamed_whole(backend, new_tokens, tiny_tokenizer, tmp_path):
    said = tiny_tokenizer("Tom 😀 cooked a red fish.", add_special_tokens=False)["input_ids"]
    asked = ChatEncoder(tiny_tokenizer).prompt("Repeat", "a", 64).ids
    folder = build_scripted_model(tmp_path / "model", tiny_tokenizer, [asked[-1], *said, tiny_tokenizer.eos_token_id])
    generator = make_generator(Model(str(folder)), None, settings(backend, new_tokens), Engines(), tmp_path / "run.log")
    streamed = list(generator.stream(asked))
    (whole,) = generator.answers([asked])
    assert (streamed[-1].text, streamed[-1].cut_off) == (whole.text, whole.cut_off)
    assert whole.cut_off == (new_tokens == 9)
    texts = [one.text.rstrip("\ufffd").strip() for one in streamed]
    assert all(whole.text.startswith(text) for text in texts)
    assert len(set(texts)) >= 4
    gc.collect()


def test_a_stream_that_is_closed_computes_no_more_tokens(tiny_models, monkeypatch):
    generator = TransformersGenerator(Model(str(tiny_models["llama"])), None, settings(TRANSFORMERS, 100))
    passes = []
    forward = generator.model.forward
    monkeypatch.setattr(generator.model, "forward", lambda *given, **named: passes.append(1) or forward(*given, **named))
    stream = generator.stream([5, 6, 7])
    assert len(list(islice(stream, 3))) == 3
    stream.close()
    assert len(passes) == 3
