"""The real judge in a real engine: a small random model, held to yes or no whatever it is shown."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

import llm_judge_eval
from benchmarks.judge_agreement import make_questions
from compositional.core.files import write_json
from compositional.core.recorded import read_recorded
from compositional.core.resumable import line_of
from compositional.core.workspace import Workspace
from compositional.data import Dataset, Locations, find_dataset
from compositional.judge.local_judges import TransformersJudge, VllmJudge
from compositional.judge.question import Request, verdict_of
from compositional.models.model import Model
from compositional.prediction import Prediction
from compositional.prediction.vllm_engine import EngineSettings
from helpers.judging import ADVERSARIAL

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="the engine on a CPU is tested; test_gpu.py is for GPUs")

# The settings of the prediction engines in test_vllm.py, so that one engine serves both.
SETTINGS = EngineSettings("float32", 1012, 0.9, 1)
FLAGS = "--max_model_len 1012 --judge_dtype float32 --bootstrap_resamples 50"


@pytest.fixture
def dataset() -> Dataset:
    return find_dataset("pocket_dialogs_es", Locations(Path("data"), None))


@pytest.fixture
def judge(engines, tiny_models, tmp_path) -> VllmJudge:
    return VllmJudge(Model(str(tiny_models["llama"])), SETTINGS, engines("llama"), tmp_path / "judge.log")


@pytest.mark.slow(20)
def test_a_random_model_gives_a_verdict_on_every_output(judge, dataset):
    requests = [Request(dataset, "test", "Tom: Hi!", output) for output in ADVERSARIAL]
    replies = judge.replies(requests)
    assert [reply.text in ("yes", "no") for reply in replies] == [True] * len(ADVERSARIAL)
    assert replies == judge.replies(requests), "greedy verdicts repeat"
    assert {verdict_of("x", reply).verdict for reply in replies} <= {"yes", "no"}


@pytest.mark.slow
def test_the_judge_by_transformers_has_the_replies_of_the_one_in_vllm(judge, dataset, tiny_models):
    model = Model(str(tiny_models["llama"]))
    by_transformers = TransformersJudge(model, "float32", SETTINGS.max_model_len)
    requests = [Request(dataset, "test", "Tom: Hi!", output) for output in [*ADVERSARIAL, "ja " * 3334]]
    requests += [question.request for question in make_questions(20, 0)]
    replies = by_transformers.replies(requests)
    assert {reply.text for reply in replies} == {"yes", "no", None}
    assert replies == judge.replies(requests)


@pytest.mark.slow
def test_a_question_that_does_not_fit_is_a_failure_and_the_others_are_judged(judge, dataset):
    requests = [Request(dataset, "test", "Tom: Hi!", output) for output in ("Hola.", "ja " * 3334, "Adiós.")]
    replies = judge.replies(requests)
    assert [reply.text is None for reply in replies] == [False, True, False]
    assert replies[1].failure == "the question is longer than 1012 tokens (--max_model_len, or what the model takes)"


@pytest.mark.slow
def test_experiments_share_one_engine_and_a_second_call_starts_none(engines, tiny_models, tmp_path):
    shared, workspace = engines("llama"), Workspace(tmp_path)
    for name in ("one", "two"):
        rows = [Prediction(f"test_{n}", "Tom: Hi!", "Hola.", text, False, False) for n, text in enumerate(ADVERSARIAL)]
        path = workspace.predictions(name, "test")
        path.parent.mkdir(parents=True)
        path.write_text("".join(line_of(asdict(row)) for row in rows), encoding="utf-8")
        write_json(path.parent / "settings.json", {"dataset": "pocket_dialogs", "secondary_task_dataset": "pocket_dialogs_es"})
    argv = (
        f"--experiment_name one two --judge_model_name_or_path {tiny_models['llama']} {FLAGS} --batch_size 2 --workspace {tmp_path}"
    )
    records = llm_judge_eval.run(argv.split(), shared)
    assert shared.started == 1
    for name, record in records.items():
        found = record["stages"]["test"]
        count = len(ADVERSARIAL)
        assert found["counts"] == {"examples": count, "judged": count, "yes": round(count * found["yes"]["mean"]), "failures": {}}
        assert found["settings"]["judge"] == "vllm"
        assert found["settings"]["revision"]
        verdicts = [json.loads(line) for line in workspace.verdicts(name, "test", "llama").read_text().splitlines()]
        assert [one["id"] for one in verdicts] == [f"test_{n}" for n in range(count)]
        assert all(one["reply"] in ("yes", "no") for one in verdicts)
    before = workspace.verdicts("one", "test", "llama").stat().st_mtime_ns
    again = llm_judge_eval.run(argv.split())  # an engine of its own would take half a minute
    assert again["one"]["stages"]["test"]["yes"] == records["one"]["stages"]["test"]["yes"]
    assert workspace.verdicts("one", "test", "llama").stat().st_mtime_ns == before
    assert read_recorded(workspace.judgement("one", "llama")) == again["one"]
