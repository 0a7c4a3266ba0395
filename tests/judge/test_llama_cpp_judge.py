"""The judge of llama.cpp: the real command, whose replies in float32 are those of transformers."""

from __future__ import annotations

import pytest
import torch

from benchmarks.judge_agreement import make_questions
from helpers.judging import ADVERSARIAL, store_predictions, verdicts

QUESTIONS = make_questions(20, 0)


@pytest.mark.slow(5)
def test_llama_cpp_and_transformers_have_the_same_replies_by_the_command(tiny_models, workspace, judge, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    pairs = [(one.request.input, one.request.output) for one in QUESTIONS]
    pairs += [("Tom: Hi!", output) for output in [*ADVERSARIAL, "ja " * 3334]]
    store_predictions(workspace, "e", pairs)
    flags = f"--experiment_name e --judge_model_name_or_path {tiny_models['llama']} --judge_dtype float32 --max_model_len 1012"
    found = {}
    for backend in ("transformers", "llama_cpp"):
        record = judge(f"{flags} --judge_backend {backend} --overwrite")["e"]["stages"]["test"]
        assert record["settings"]["judge"] == backend
        found[backend] = [(one["reply"], one["failure"]) for one in verdicts(workspace, "e", "llama")]
    assert found["llama_cpp"] == found["transformers"]
    assert {reply for reply, _ in found["llama_cpp"]} == {"yes", "no", None}
