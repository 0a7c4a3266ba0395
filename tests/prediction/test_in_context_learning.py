"""In-context learning: solved examples before each question; and an auxiliary adapter that answers alone."""

from __future__ import annotations

import pytest
import torch
from datasets import Dataset, DatasetDict

from compositional.adapters.peft_folder import CALIBRATION_FILE, WEIGHTS_FILE
from compositional.core.errors import UserError
from compositional.core.files import read_json, read_json_lines
from compositional.data import Example, Locations, find_dataset
from compositional.models.chat import ChatEncoder, demonstration
from compositional.prediction import Answer
from compositional.prediction.transformers_backend import TransformersGenerator
from helpers.composing import ASKED, LEARN, MERGE, SPANISH, START, mistake_in, store, two_of
from helpers.encoding import QWEN_TEMPLATE, TEXTS, with_template

pytestmark = pytest.mark.usefixtures("one_thread")
SOLVED = [Example("1", "Tom: Hi, Lucy!", "Tom saluda."), Example("2", "Anna: Bye.", "Anna se va."), Example("3", "A: ¿?", "¡B!")]


@pytest.fixture(autouse=True)
def on_a_cpu(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def turns_of(solved: list[Example]) -> list[dict[str, str]]:
    return [turn for one in solved for turn in demonstration(ASKED, one.input, one.reference)]


@pytest.fixture
def zero_shot(run, tiny_models) -> str:
    return f"{SPANISH}--model_name_or_path {tiny_models['llama']} --zero_shot --do_predict --experiment_name e "


@pytest.fixture
def prompts(monkeypatch, tiny_tokenizer) -> list[str]:
    """The prompts that a model is asked, as text, in place of its answers."""
    asked: list[str] = []

    def answers(self, batch: list[list[int]]) -> list[Answer]:
        asked.extend(map(tiny_tokenizer.decode, batch))
        return [Answer("fine", cut_off=False) for _ in batch]

    monkeypatch.setattr(TransformersGenerator, "answers", answers)
    return asked


def shown_in(prompt: str) -> list[tuple[str, str]]:
    """Texts and answers of the solved examples in a prompt, which must be whole turns up to the question."""
    *solved, question, end = prompt.split("<|end|>")
    assert (end, question[: len(START)], len(solved) % 2) == ("<|assistant|>", START, 0)
    assert all(turn.startswith(START) for turn in solved[::2])
    assert all(turn.startswith("<|assistant|>") for turn in solved[1::2])
    return [(text.removeprefix(START), answer.removeprefix("<|assistant|>")) for text, answer in zip(*[iter(solved)] * 2)]


# ---- the prompt


@pytest.mark.parametrize("count", [0, 1, 3])
@pytest.mark.parametrize("template", [None, QWEN_TEMPLATE], ids=["plain", "with a system prompt"])
def test_a_prompt_is_a_chat_of_solved_turns_and_then_the_question(template, count, tiny_tokenizer):
    tokenizer = with_template(tiny_tokenizer, template, "<|im_start|>", "<|im_end|>") if template else tiny_tokenizer
    chat = []
    for one in SOLVED[:count]:
        chat.append({"role": "user", "content": f"{ASKED}:\n\n{one.input}"})
        chat.append({"role": "assistant", "content": one.reference})
    chat.append({"role": "user", "content": f"{ASKED}:\n\nLucy: Hello."})
    prompt = ChatEncoder(tokenizer, turns_of(SOLVED[:count])).prompt(ASKED, "Lucy: Hello.", 512)
    assert tokenizer.decode(prompt.ids) == tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert not prompt.truncated


@pytest.mark.parametrize("kind", TEXTS)
@pytest.mark.parametrize("limit", [40, 64, 100])
def test_only_the_questions_text_is_cut_and_the_limit_counts_without_the_solved_examples(limit, kind, tiny_tokenizer):
    shown, plain = ChatEncoder(tiny_tokenizer, turns_of(SOLVED)), ChatEncoder(tiny_tokenizer)
    before = "".join(f"{START}{one.input}<|end|><|assistant|>{one.reference}<|end|>" for one in SOLVED)
    length = shown.demonstrations_length
    assert length == len(tiny_tokenizer(before)["input_ids"])
    prompt, alone = shown.prompt(ASKED, TEXTS[kind], limit + length), plain.prompt(ASKED, TEXTS[kind], limit)
    assert tiny_tokenizer.decode(prompt.ids[:length]) == before
    assert (prompt.ids[length:], prompt.truncated) == (alone.ids, True)
    with pytest.raises(UserError, match=r", 3 solved examples and the chat template take \d+ tokens of 90"):
        shown.prompt(ASKED, TEXTS[kind], 90)


# ---- the real command


def test_solved_examples_are_of_the_training_split_alike_for_all_questions_and_seeded(run, zero_shot, workspace, prompts, tmp_path):
    for name, flags in (("e", ""), ("again", ""), ("seeded", "--data_seed 7"), ("three", "--in_context_examples 3")):
        run(f"{zero_shot}--in_context_examples 2 --experiment_name {name} {flags}")
    splits = {split: find_dataset("pocket_dialogs_es", Locations(tmp_path, None)).read(split) for split in ("train", "test")}
    assert len(prompts) == 4 * 3
    shown = [shown_in(prompt) for prompt in prompts]
    for start in range(0, 12, 3):
        assert shown[start] == shown[start + 1] == shown[start + 2]
    first, again, seeded, three = shown[::3]
    assert first == again != seeded
    assert [len(one) for one in (first, seeded, three)] == [2, 2, 3]
    solved = {(one.input, one.reference) for one in splits["train"]}
    assert all(solved.issuperset(one) for one in (first, seeded, three))
    questions = {prompt.rsplit(START, 1)[1].removesuffix("<|end|><|assistant|>") for prompt in prompts[:3]}
    assert len(questions) == 3
    assert questions <= {one.input for one in splits["test"]}
    results = read_json(workspace.results("e"))
    assert results["method"] == "in_context_learning"
    assert results["cost"] == {"inferences_per_example": 1, "extra_parameters": 0, "extra_bytes": 0}


def test_predictions_with_other_solved_examples_are_not_gone_on_from(run, zero_shot, workspace, prompts):
    run(f"{zero_shot}--in_context_examples 2")
    before = workspace.predictions("e", "test").read_bytes()
    for flags, change in (
        ("--in_context_examples 1", "in_context_examples was 2, is 1"),
        ("", "in_context_examples was 2, is 0"),
        ("--in_context_examples 2 --data_seed 7", "hash_of_in_context_examples was"),
    ):
        with pytest.raises(UserError, match=change):
            run(f"{zero_shot}{flags}")
    assert workspace.predictions("e", "test").read_bytes() == before
    asked = len(prompts)
    run(f"{zero_shot}--in_context_examples 2")
    assert len(prompts) == asked, "what is done was done again"


def test_prompts_are_cut_as_without_solved_examples(run, zero_shot, workspace, prompts):
    for name, flags in (("e", ""), ("shown", "--in_context_examples 2")):
        run(f"{zero_shot}--experiment_name {name} --max_prompt_length 60 {flags}")
    assert [prompt.rsplit(START, 1)[1] for prompt in prompts[3:]] == [prompt.rsplit(START, 1)[1] for prompt in prompts[:3]]
    assert all(len(shown_in(prompt)) == 2 for prompt in prompts[3:])
    counts = [read_json(workspace.results(name))["stages"]["test"]["counts"] for name in ("e", "shown")]
    assert counts[0] == counts[1]
    assert 3 in counts[0].values()


def test_a_model_without_room_for_the_solved_examples_is_a_mistake(run, zero_shot, workspace):
    # There is room for the solved examples alone, but for no question beside them.
    room = f"{zero_shot}--in_context_examples 4 --max_new_tokens "
    with pytest.raises(UserError, match=r"takes 1024 tokens, and the --in_context_examples have (\d+)") as caught:
        run(f"{room}1000")
    length = int(str(caught.value).split("--in_context_examples have ")[1].split()[0])
    line = mistake_in(f"{room}{1024 - length - 10}", run, workspace)
    assert line.startswith(f"'{ASKED}', 4 solved examples and the chat template take ")
    assert not workspace.root.exists()


def test_as_many_solved_examples_as_there_are_can_be_asked_for(run, zero_shot, workspace, prompts):
    rows = [{"id": str(n), "input": f"Tom: Hi {n}!", "target": f"Tom saluda {n}."} for n in range(4)]
    splits = {"train": rows[:2], "validation": rows[2:3], "test": rows[3:]}
    DatasetDict({name: Dataset.from_list(some) for name, some in splits.items()}).save_to_disk(
        workspace.prepared_data("pocket_dialogs_es")
    )
    line = mistake_in(f"{zero_shot}--in_context_examples 3", run, workspace)
    assert line == "--in_context_examples 3: the train split of pocket_dialogs_es has 2 examples"
    run(f"{zero_shot}--in_context_examples 2")
    assert shown_in(prompts[0]) == [("Tom: Hi 0!", "Tom saluda 0."), ("Tom: Hi 1!", "Tom saluda 1.")]


@pytest.mark.slow
def test_solved_examples_stand_before_the_questions_to_a_merge_and_not_in_its_training(run, workspace, tiny_models, prompts):
    store(workspace, two_of(tiny_models["llama"]))
    for name, flags in (
        ("merged", f"{MERGE}--in_context_examples 2"),
        ("calibrated", f"{LEARN}--num_examples_merge 8"),
        ("both", f"{LEARN}--num_examples_merge 8 --in_context_examples 2"),
    ):
        run(f"{SPANISH}--experiment_name {name} {flags} --do_predict")
    assert [len(shown_in(prompt)) for prompt in prompts] == [2] * 3 + [0] * 3 + [2] * 3
    assert [read_json(workspace.results(name))["method"] for name in ("merged", "calibrated", "both")] == [
        "linear+in_context_learning",
        "learnable_calibration",
        "learnable_calibration+in_context_learning",
    ]
    for file in (WEIGHTS_FILE, CALIBRATION_FILE):
        assert (workspace.stored_model("both") / file).read_bytes() == (workspace.stored_model("calibrated") / file).read_bytes()


# ---- the auxiliary task's adapter alone


def test_an_auxiliary_adapter_answers_as_if_it_were_named_as_the_main_one(run, workspace, tiny_models):
    store(workspace, two_of(tiny_models["llama"]))
    for name, flags in (
        ("main", "--stored_model_name one"),
        ("plain", "--stored_model_name two"),
        ("auxiliary", "--auxiliary_lora --stored_model_name one --secondary_stored_model_name two"),
        ("alone", "--auxiliary_lora --secondary_stored_model_name two"),
    ):
        run(f"{SPANISH}--experiment_name {name} {flags} --do_predict --max_new_tokens 12")
    main, plain, *auxiliary = (
        [row["output"] for _, row in read_json_lines(workspace.predictions(name, "test"))]
        for name in ("main", "plain", "auxiliary", "alone")
    )
    assert auxiliary == [plain, plain]
    assert plain != main
    results = read_json(workspace.results("auxiliary"))
    assert results["method"] == "auxiliary_lora"
    assert results["cost"] == {"inferences_per_example": 1, "extra_parameters": 0, "extra_bytes": 0}
