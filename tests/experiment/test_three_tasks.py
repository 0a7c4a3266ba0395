"""Three tasks in one request: a summary, translated, in a tone. Any number of adapters is merged, and steps follow one another."""

from __future__ import annotations

import pytest
import torch

from compositional.adapters.peft_folder import read_adapter
from compositional.core.files import read_json, read_json_lines
from compositional.data import Locations, find_dataset
from compositional.judge.local_judges import RuleJudge
from compositional.judge.question import Request
from compositional.models.chat import instruction
from compositional.pocket.meaning import Event, Statement
from compositional.pocket.rules import says
from compositional.pocket.sentences import render
from helpers.planning import mistakes_in, plan_of
from helpers.tiny_runs import TINY_RUN

THREE = (
    "--dataset pocket_dialogs --secondary_task translation tone_adjustment --tgt_lang es --tgt_tone casual "
    "--secondary_task_dataset pocket_dialogs_es_casual "
)
SINGLE = ("sums", "translation", "tone")
MODULES = "--lora_merge_modules sums translation tone "
LEARNED = "--merge_datasets pocket_dialogs_es_casual --num_examples_merge 16 "
EVENT = Statement(Event("Anna", "buy", "bike", "red", "at the market", "on Monday", past=False))


@pytest.mark.slow(5)
def test_each_way_to_answer_takes_three_tasks(run, trained, workspace, tiny_models):
    tone = "--experiment_name tone --dataset pocket_sentences_casual --stored_model_name tone --do_train"
    run(f"{TINY_RUN}--model_name_or_path {tiny_models['llama']} {tone}")
    asked = f"{TINY_RUN}{THREE}--do_predict "
    run(f"{asked}--experiment_name merged {MODULES}--lora_merge_strategy linear --lora_merge_weights 0.5 0.3 -0.2")
    run(f"{asked}--experiment_name calibrated {MODULES}--lora_merge_strategy learnable_calibration_pp {LEARNED}")
    run(f"{asked}--experiment_name scaled {MODULES}--lora_merge_strategy dam_composed {LEARNED}")
    steps = "--stored_model_name sums --secondary_stored_model_name translation tone --multi_step_prompts --prompt_style empty"
    run(f"{asked}--experiment_name steps {steps}")
    adapters = [read_adapter(workspace.stored_model(name)) for name in SINGLE]
    merged = read_adapter(workspace.stored_model("merged"))
    for path, factors in merged.factors.items():
        expected = sum(weight * one.factors[path].delta() for weight, one in zip((0.5, 0.3, -0.2), adapters, strict=True))
        torch.testing.assert_close(factors.delta(), expected, rtol=2e-2, atol=1e-4)
    for name in ("merged", "calibrated", "scaled", "steps"):
        assert read_json(workspace.results(name))["stages"]["test"]["counts"]["examples"] == 6
    assert read_json(workspace.results("steps"))["cost"]["inferences_per_example"] == 3
    assert read_json(workspace.results("merged"))["cost"]["inferences_per_example"] == 1
    folder = workspace.predictions_folder("steps")
    first, second, third = ([row for _, row in read_json_lines(folder / f"test.step{number}.jsonl")] for number in (1, 2, 3))
    joined = [row for _, row in read_json_lines(folder / "test.jsonl")]
    assert [row["input"] for row in second] == [row["output"] for row in first]
    assert [row["input"] for row in third] == [row["output"] for row in second] == [row["intermediate"] for row in joined]
    assert [(row["input"], row["output"]) for row in joined] == [
        (one["input"], last["output"]) for one, last in zip(first, third, strict=True)
    ]


def test_the_instruction_names_all_three_tasks_in_their_order(workspace):
    tasks = find_dataset("pocket_dialogs_es_casual", Locations(workspace.root, None)).tasks
    assert instruction(tasks) == "Summarize the following text, then translate it to Spanish, then rewrite it in a casual tone"
    assert plan_of(f"{THREE}--experiment_name e --zero_shot --do_predict", workspace).task_set.language == "es"


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("--tgt_tone casual", "--secondary_task tone_adjustment needs --tgt_tone"),
        ("--tgt_lang es", "--secondary_task translation needs --tgt_lang"),
        ("translation tone_adjustment", "--secondary_task is missing: translation or tone_adjustment"),
    ],
)
def test_each_of_the_tasks_needs_its_language_or_tone(said, expected, workspace):
    flags = THREE.replace(f"--secondary_task {said} " if " " in said and not said.startswith("-") else f"{said} ", "")
    assert expected in mistakes_in(f"{flags}--experiment_name e --zero_shot --do_predict", workspace)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("tone_adjustment translation", "--secondary_task tone_adjustment translation: pocket_dialogs_es_casual is made for "),
        ("translation", "--secondary_task translation: pocket_dialogs_es_casual is made for translation tone_adjustment"),
    ],
)
def test_tasks_in_another_order_or_number_than_the_sets_are_a_mistake(asked, expected, workspace):
    flags = THREE.replace("translation tone_adjustment", asked)
    found = mistakes_in(f"{flags}--experiment_name e --zero_shot --do_predict", workspace)
    assert any(line.startswith(expected) for line in found)


@pytest.mark.parametrize(
    ("language", "expected"),
    [
        ("es", "Pues Anna va a comprar una bicicleta roja en el mercado el lunes, ¿sabes?"),
        ("fr", "Alors Anna va acheter un vélo rouge au marché lundi, tu sais."),
        ("de", "Also Anna wird am Montag auf dem Markt ein rotes Fahrrad kaufen, weißt du."),
    ],
)
def test_pockets_grammar_speaks_casually_in_each_language(language, expected):
    assert render(EVENT, f"{language}_casual") == expected


def test_pockets_judge_wants_both_the_language_and_the_tone(workspace):
    dataset = find_dataset("pocket_dialogs_es_casual", Locations(workspace.root, None))
    example = dataset.read("test")[0]
    plain = find_dataset("pocket_dialogs_es", Locations(workspace.root, None)).read("test")[0]
    tone = find_dataset("pocket_dialogs_casual", Locations(workspace.root, None)).read("test")[0]
    outputs = [example.reference, plain.reference, tone.reference]
    replies = RuleJudge().replies([Request(dataset, "test", example.input, output) for output in outputs])
    assert [reply.text for reply in replies] == ["yes", "no", "no"]
    assert says("Pues el lunes Anna va a comprar una bicicleta roja en el mercado, ¿sabes?", (EVENT,), "es_casual")
    assert not says("Anna va a comprar una bicicleta roja en el mercado el lunes, ¿sabes?", (EVENT,), "es_casual")
