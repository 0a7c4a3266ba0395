"""Predictions are made with the adapters, prompts and order that the method says."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest

from compositional.adapters.peft_folder import StoredAdapter
from compositional.core.errors import UserError
from compositional.core.files import read_json, write_json
from compositional.core.recorded import read_recorded, write_record
from compositional.core.resumable import partial_of
from compositional.data import Example
from compositional.models.chat import ChatEncoder, instruction, user_turn
from compositional.models.model import Model
from compositional.prediction import Answer, Prediction, PredictionSettings
from compositional.prediction.predict import predict_split, read_predictions
from compositional.prediction.transformers_backend import TransformersGenerator
from compositional.tasks import find_task
from helpers import ARCHITECTURES
from helpers.tiny_runs import COMPOSED, TINY_RUN, ZERO_SHOT

SETTINGS = PredictionSettings(backend="transformers", max_new_tokens=8, max_prompt_length=512, batch_size=64, dtype="float32")


def answers_one_by_one(model, adapter, asked: str, texts: list[str]) -> list[str]:
    base = Model(str(model))
    stored = StoredAdapter(adapter) if adapter else None
    generator, encoder = TransformersGenerator(base, stored, SETTINGS), ChatEncoder(base.tokenizer)
    return [generator.answers([encoder.prompt(asked, text, 512).ids])[0].text for text in texts]


@pytest.fixture
def short_model(tiny_models, tmp_path):
    """A model that takes sequences of at most 120 tokens."""
    folder = tmp_path / "short"
    shutil.copytree(tiny_models["llama"], folder)
    config = read_json(folder / "config.json")
    write_json(folder / "config.json", config | {"max_position_embeddings": 120})
    return folder


@pytest.fixture
def windowed_model(tiny_models, tmp_path):
    """A model with a layer that attends to the last eight tokens only."""
    folder = tmp_path / "windowed"
    shutil.copytree(tiny_models["qwen2"], folder)
    config = read_json(folder / "config.json")
    windows = {"use_sliding_window": True, "sliding_window": 8, "layer_types": ["full_attention", "sliding_attention"]}
    write_json(folder / "config.json", config | windows)
    return folder


@pytest.mark.parametrize("name", [*ARCHITECTURES, "windowed"])
def test_answers_of_a_batch_with_a_shared_beginning_are_those_of_each_prompt_alone(name, tiny_models, windowed_model):
    shared = list(range(5, 25))
    prompts = [shared + list(range(30, 31 + 4 * number)) for number in range(4)] + [shared]
    generator = TransformersGenerator(Model(str((tiny_models | {"windowed": windowed_model})[name])), None, SETTINGS)
    together = generator.answers(prompts)
    assert together == [generator.answers([prompt])[0] for prompt in prompts]
    assert len({answer.tokens for answer in together}) > 1


class Counting:
    """A generator that answers with the number of its prompt, and keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, ...]] = []
        self.batches: list[int] = []

    def answers(self, prompts: list[list[int]]) -> list[Answer]:
        self.batches.append(len(prompts))
        self.asked += map(tuple, prompts)
        return [Answer(f"answer {len(prompt)}", False) for prompt in prompts]


def test_examples_with_one_prompt_share_one_answer_and_a_broken_off_run_resumes(tmp_path, tiny_models):
    encoder = ChatEncoder(Model(str(tiny_models["llama"])).tokenizer)
    examples = [
        Example(f"test_{number}_{summary}", f"Anna: {'hello ' * number}", f"summary {summary}")
        for number in range(5)
        for summary in (1, 2, 3)
    ]
    path, settings = tmp_path / "test.jsonl", replace(SETTINGS, batch_size=2)

    def predicted() -> tuple[list[Prediction], Counting]:
        generator = Counting()
        return predict_split(path, examples, "Summarize.", encoder, settings, lambda: generator, "test"), generator

    predictions, generator = predicted()
    assert generator.batches == [2, 2, 1]
    assert len(set(generator.asked)) == 5
    assert [(one.id, one.input, one.reference) for one in predictions] == [(one.id, one.input, one.reference) for one in examples]
    lengths = [len(encoder.prompt("Summarize.", one.input, 512).ids) for one in examples]
    assert [one.output for one in predictions] == [f"answer {length}" for length in lengths]

    whole = path.read_text()
    by_id = {json.loads(line)["id"]: line for line in whole.splitlines(keepends=True)}
    # The first batch and a third of the next, as an earlier version wrote them: an answer for each example.
    path.unlink()
    recorded = [*(f"test_{number}_{summary}" for number in (4, 3) for summary in (1, 2, 3)), "test_2_1"]
    path.with_name("test.jsonl.partial").write_text("".join(by_id[id] for id in recorded))
    predictions, generator = predicted()
    assert generator.batches == [2, 1]
    assert path.read_text() == whole


def test_prompts_longer_than_the_model_takes_are_cut_and_counted(run, workspace, short_model):
    command = f"{TINY_RUN}--model_name_or_path {short_model} --experiment_name z --dataset pocket_dialogs --zero_shot --do_predict "
    run(f"{command}--max_prompt_length 400 --max_new_tokens 30")
    predictions = read_predictions(workspace.predictions("z", "test"))
    encoder = ChatEncoder(Model(str(short_model)).tokenizer)
    asked = instruction((find_task("summarization"),))
    too_long = [len(encoder.question(user_turn(asked, one.input))) > 90 for one in predictions]
    assert [one.prompt_truncated for one in predictions] == too_long
    assert any(too_long)
    assert read_json(workspace.results("z"))["stages"]["test"]["counts"]["truncated_prompts"] == sum(too_long)


def test_a_model_without_room_for_a_prompt_is_a_mistake(run, workspace, short_model):
    command = f"{TINY_RUN}--model_name_or_path {short_model} --experiment_name z --dataset pocket_dialogs --zero_shot --do_predict "
    with pytest.raises(UserError, match=r"--max_new_tokens 120: .* takes 120 tokens"):
        run(f"{command}--max_new_tokens 120")
    assert not workspace.output("z").exists()


def test_results_say_what_made_the_predictions(run, workspace, tiny_models):
    model = tiny_models["llama"]
    run(f"{TINY_RUN}--model_name_or_path {model} --experiment_name z --dataset pocket_dialogs --zero_shot --do_predict")
    made_by = read_json(workspace.results("z"))["predictions_made_by"]
    assert made_by["test"]["backend"] == "transformers"
    assert made_by["test"]["dtype"] == "float32"


def test_results_say_what_made_the_rows_that_another_machine_continued(run, workspace, tiny_models, caplog):
    command = f"{ZERO_SHOT}--model_name_or_path {tiny_models['llama']} --do_predict --prediction_batch_size 1"
    run(command)
    path, settings = workspace.predictions("z", "test"), workspace.predictions_folder("z") / "settings.json"
    recorded = read_recorded(settings)
    own = recorded["made_by"]["test"]
    other = own | {"backend": "vllm", "dtype": "bfloat16", "device": "a GPU"}
    for earlier, expected in (([own], None), ([other], [other]), ([other, own], [other, own])):
        now, *before = earlier
        write_record(settings, recorded | {"made_by": {"test": now | ({"after": before} if before else {})}})
        partial_of(path).write_text(path.read_text().splitlines(keepends=True)[0])
        path.unlink()
        workspace.results("z").unlink()
        caplog.clear()
        run(command)
        made_by = read_json(workspace.results("z"))["predictions_made_by"]["test"]
        assert made_by.pop("after", None) == expected
        assert made_by == own
        assert ("z, test: begun by vllm bfloat16 a GPU, goes on with transformers" in caplog.text) == bool(expected)


@pytest.mark.slow
def test_multi_step_asks_each_adapter_for_its_own_task(run, trained, workspace, tiny_models):
    model = tiny_models["llama"]
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


@pytest.mark.slow
def test_one_pass_asks_the_stored_adapter_for_both_tasks(run, trained, workspace, tiny_models):
    model = tiny_models["llama"]
    run(f"{TINY_RUN}--model_name_or_path {model} --experiment_name a {COMPOSED}--stored_model_name translation --do_predict")
    predictions = read_predictions(workspace.predictions("a", "test"))
    asked = instruction((find_task("summarization"), find_task("translation", "es")))
    texts = [prediction.input for prediction in predictions]
    outputs = [prediction.output for prediction in predictions]
    assert outputs == answers_one_by_one(model, workspace.stored_model("translation"), asked, texts)
    assert outputs != answers_one_by_one(model, None, asked, texts)
