"""Predictions are made with the adapters, prompts and order that the method says."""

from __future__ import annotations

from test_end_to_end import COMPOSED, TINY_RUN, train_single_tasks

from src.encoding import ChatEncoder
from src.models import BaseModel
from src.prediction import PredictionSettings
from src.prediction.predict import read_predictions
from src.prediction.transformers_backend import TransformersGenerator
from src.prompts import instruction
from src.tasks import find_task

SETTINGS = PredictionSettings(backend="transformers", max_new_tokens=8, max_prompt_length=512, batch_size=64, dtype="float32")


def answers_one_by_one(model, adapter, asked: str, texts: list[str]) -> list[str]:
    base = BaseModel(str(model))
    generator, encoder = TransformersGenerator(base, adapter, SETTINGS), ChatEncoder(base.tokenizer())
    return [generator.answers([encoder.prompt(asked, text, 512).ids])[0].text for text in texts]


def test_multi_step_asks_each_adapter_for_its_own_task(run, workspace, tiny_models):
    model = tiny_models["qwen2"]
    train_single_tasks(run, model)
    run(
        f"{TINY_RUN}--model_name_or_path {model} --experiment_name m {COMPOSED}--stored_model_name sums "
        "--secondary_stored_model_name translation --multi_step_prompts --prompt_style empty --do_predict"
    )
    predictions = read_predictions(workspace.predictions("m", "test"))
    sums, translation = workspace.stored_model("sums"), workspace.stored_model("translation")
    summary, spanish = instruction((find_task("summarization"),)), instruction((find_task("translation", "es"),))
    intermediate = [prediction.intermediate for prediction in predictions]
    outputs = [prediction.output for prediction in predictions]
    assert intermediate == answers_one_by_one(model, sums, summary, [prediction.input for prediction in predictions])
    assert outputs == answers_one_by_one(model, translation, spanish, intermediate)
    assert outputs != answers_one_by_one(model, sums, spanish, intermediate)
    assert intermediate != answers_one_by_one(model, None, summary, [prediction.input for prediction in predictions])


def test_one_pass_asks_the_stored_adapter_for_both_tasks(run, workspace, tiny_models):
    model = tiny_models["llama"]
    train_single_tasks(run, model)
    run(f"{TINY_RUN}--model_name_or_path {model} --experiment_name a {COMPOSED}--stored_model_name translation --do_predict")
    predictions = read_predictions(workspace.predictions("a", "test"))
    asked = instruction((find_task("summarization"), find_task("translation", "es")))
    texts = [prediction.input for prediction in predictions]
    outputs = [prediction.output for prediction in predictions]
    assert outputs == answers_one_by_one(model, workspace.stored_model("translation"), asked, texts)
    assert outputs != answers_one_by_one(model, None, asked, texts)
