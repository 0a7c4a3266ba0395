"""What real chat models bring: a system prompt, an end of turn that is no end of text, and long texts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from compositional.adapters.peft_folder import StoredAdapter
from compositional.core.files import read_json
from compositional.data import Dataset, Example
from compositional.experiment import adapter as making
from compositional.experiment.resume import ADAPTER_RECORD
from compositional.models.chat import IGNORED, ChatEncoder, TrainingSequence
from compositional.models.model import Model
from compositional.prediction import Answer, AnswerReader, Prediction, PredictionSettings
from compositional.prediction.predict import join_steps, read_predictions
from compositional.prediction.transformers_backend import TransformersGenerator
from helpers.chat_models import SYSTEM, TURN_END, build_scripted_model, chat_tokenizer
from helpers.encoding import QWEN_TEMPLATE
from helpers.tiny_runs import TINY_RUN

ASKED = "Summarize the following text"
SAID, UNSEEN = "Anna left.", " Never seen"
OPENING = f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n{ASKED}:\n\n"
CLOSING = "<|im_end|>\n<|im_start|>assistant\n"


@pytest.fixture(autouse=True)
def on_a_cpu(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture
def scripted(tmp_path, tiny_tokenizer) -> Path:
    """A model that says SAID, ends its turn, goes on with UNSEEN, and ends the text."""
    tokenizer = chat_tokenizer(tiny_tokenizer)
    return build_scripted_model(tmp_path / "scripted", tokenizer, script_of(tokenizer))


def script_of(tokenizer) -> list[int]:
    """From the last token of a prompt on."""
    words = tokenizer(f"{SAID}{TURN_END}{UNSEEN}", add_special_tokens=False)["input_ids"]
    return [tokenizer("\n", add_special_tokens=False)["input_ids"][-1], *words, tokenizer.eos_token_id]


def length_said(folder: Path) -> int:
    """Tokens of SAID."""
    return len(AutoTokenizer.from_pretrained(folder)(SAID, add_special_tokens=False)["input_ids"])


def command(model: Path, name: str) -> str:
    return f"{TINY_RUN}--model_name_or_path {model} --experiment_name {name} --dataset pocket_dialogs "


# ---- the system prompt


@pytest.mark.slow
@pytest.mark.parametrize(
    ("template", "system"),
    [(QWEN_TEMPLATE, SYSTEM), (QWEN_TEMPLATE.replace(SYSTEM, "You are brief."), "You are brief."), (None, None)],
    ids=["the template's own", "ours", "none"],
)
def test_training_and_prediction_prompts_are_the_same_tokens(
    template, system, chat_model, tiny_models, tiny_tokenizer, run, tmp_path, monkeypatch
):
    """A system prompt of ours is one in the chat template that is stored with the model."""
    folder = tiny_models["llama"]
    if template:
        folder = tmp_path / "model"
        AutoModelForCausalLM.from_pretrained(chat_model).save_pretrained(folder)
        chat_tokenizer(tiny_tokenizer, template).save_pretrained(folder)
    examples = [Example(str(number), f"Tom: {'Hi! ' * number}", "Tom greets.") for number in range(1, 5)]
    trained_on: list[TrainingSequence] = []
    asked: list[list[int]] = []
    make_sequences = making.AdapterMaker._sequences

    def remember(self, chosen) -> list[TrainingSequence]:
        trained_on.extend(make_sequences(self, chosen))
        return trained_on

    def answers(self, prompts: list[list[int]]) -> list[Answer]:
        asked.extend(prompts)
        return [Answer("fine", cut_off=False) for _ in prompts]

    monkeypatch.setattr(Dataset, "read", lambda self, split: examples)
    monkeypatch.setattr(making.AdapterMaker, "_sequences", remember)
    monkeypatch.setattr(TransformersGenerator, "answers", answers)
    run(f"{command(folder, 'e')}--stored_model_name e --do_train --do_predict")
    before_targets = [one.ids[: len(one.ids) - one.target_length] for one in trained_on]
    assert len(before_targets) == 4
    assert sorted(before_targets) == sorted(asked)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for example, sequence in zip(examples, trained_on, strict=True):
        chat = [{"role": "user", "content": f"{ASKED}:\n\n{example.input}"}]
        rendered = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        assert tokenizer.decode(sequence.ids).startswith(rendered)
        assert system is None or rendered.startswith(f"<|im_start|>system\n{system}<|im_end|>\n")


# ---- the end of a turn


def test_the_end_of_a_turn_is_the_last_token_that_is_learned(chat_model):
    tokenizer = AutoTokenizer.from_pretrained(chat_model)
    turn_end = tokenizer.convert_tokens_to_ids(TURN_END)
    assert turn_end != tokenizer.eos_token_id
    sequence = ChatEncoder(tokenizer).training_sequence(ASKED, Example("0", "Tom: Hi!", SAID), 512, False)
    learned = [label for label in sequence.labels if label != IGNORED]
    assert learned == [*tokenizer(SAID, add_special_tokens=False)["input_ids"], turn_end]
    assert sequence.ids[-1] == turn_end


def test_an_answer_stops_at_the_end_of_the_turn_and_nothing_after_it_appears(scripted):
    base = Model(str(scripted))
    script = script_of(base.tokenizer)
    ids = ChatEncoder(base.tokenizer).prompt(ASKED, "Tom: Hi!", 512).ids
    model = AutoModelForCausalLM.from_pretrained(scripted)
    unstopped = model.generate(torch.tensor([ids]), max_new_tokens=len(script) - 1, do_sample=False)[0, len(ids) :]
    assert unstopped.tolist() == script[1:], "the model itself goes on"
    generator = TransformersGenerator(base, None, PredictionSettings("transformers", 40, 512, 2, "float32"))
    forwards: list[int] = []
    generator.model.register_forward_hook(lambda *_: forwards.append(1))
    longer = ChatEncoder(base.tokenizer).prompt(ASKED, "Tom: Hi!\nLucy: Hello.", 512).ids
    end = script.index(base.tokenizer.convert_tokens_to_ids(TURN_END))
    assert generator.answers([ids, longer]) == [Answer(SAID, cut_off=False, tokens=tuple(script[1:end]))] * 2
    assert len(forwards) == 1 + end, "one for what the prompts share, one for each token of the answers"


def test_a_reader_drops_what_comes_after_the_end_of_the_turn(scripted):
    base = Model(str(scripted))
    reader, (_, *said) = AnswerReader(base, base.tokenizer), script_of(base.tokenizer)
    length = length_said(scripted)
    assert reader.read(said) == Answer(SAID, cut_off=False, tokens=tuple(said[:length]))
    assert reader.read(said[:length]) == Answer(SAID, cut_off=True, tokens=tuple(said[:length]))


def test_an_end_of_text_ends_an_answer_where_the_tokenizers_own_token_ends_a_turn(tiny_tokenizer):
    tokenizer = chat_tokenizer(tiny_tokenizer)
    tokenizer.add_tokens(["<|endoftext|>"], special_tokens=True)
    tokenizer.eos_token = TURN_END
    ends = ChatEncoder(tokenizer).end_tokens
    assert tokenizer.convert_ids_to_tokens(sorted(ends)) == [TURN_END, "<|endoftext|>"]


# ---- limits


@pytest.mark.parametrize(("spare", "is_cut_off"), [(1, False), (0, False), (-1, True)])
def test_answers_that_reach_the_limit_of_new_tokens_are_counted(spare, is_cut_off, scripted, run, workspace):
    limit = length_said(scripted) + 1 + spare  # 1: the token that ends the turn
    run(f"{command(scripted, 'e')}--zero_shot --do_valid --do_predict --max_new_tokens {limit}")
    for stage, examples in (("valid", 4), ("test", 6)):
        predictions = read_predictions(workspace.predictions("e", stage))
        counts = read_json(workspace.results("e"))["stages"][stage]["counts"]
        assert counts["examples"] == examples
        assert counts["outputs_cut_off"] == (examples if is_cut_off else 0)
        assert {one.output_cut_off for one in predictions} == {is_cut_off}
        assert {one.output for one in predictions} == {SAID}


def test_an_answer_counts_as_cut_off_if_any_of_its_steps_is(tmp_path):
    examples = [Example(str(number), "question", "reference") for number in range(4)]
    cut = [(False, False), (True, False), (False, True), (True, True)]
    steps = [
        [Prediction(one.id, "input", "reference", "output", truncated, off) for one, truncated, off in zip(examples, *flags)]
        for flags in (zip(*cut), zip(*reversed(cut)))
    ]
    joined = join_steps(tmp_path / "test.jsonl", examples, steps)
    both = list(zip(cut, reversed(cut)))
    assert [one.prompt_truncated for one in joined] == [first[0] or second[0] for first, second in both]
    assert [one.output_cut_off for one in joined] == [first[1] or second[1] for first, second in both]


@pytest.mark.slow
def test_what_a_long_prompt_loses_is_text_and_it_is_counted(chat_model, run, workspace, monkeypatch):
    short, long = "Tom: Hi!", "Tom: I will buy a red bike on Monday. " * 20
    examples = [Example(str(number), text, SAID) for number, text in enumerate([short, long, short, long, long, short])]
    asked: dict[str, str] = {}
    tokenizer = AutoTokenizer.from_pretrained(chat_model)

    def answers(self, prompts: list[list[int]]) -> list[Answer]:
        assert max(map(len, prompts)) == 100
        asked.update({tokenizer.decode(prompt): "" for prompt in prompts})
        return [Answer("fine", cut_off=False) for _ in prompts]

    monkeypatch.setattr(Dataset, "read", lambda self, split: examples)
    monkeypatch.setattr(TransformersGenerator, "answers", answers)
    run(f"{command(chat_model, 'e')}--stored_model_name e --do_train --do_predict --max_length 100 --max_prompt_length 100")
    assert len(asked) == 2
    for prompt in asked:
        assert prompt.startswith(OPENING)
        assert prompt.endswith(CLOSING)
        kept = prompt.removeprefix(OPENING).removesuffix(CLOSING)
        assert kept == short or (long.startswith(kept) and len(kept) > 50)
    predictions = read_predictions(workspace.predictions("e", "test"))
    assert [one.prompt_truncated for one in predictions] == [one.input == long for one in predictions]
    assert read_json(workspace.results("e"))["stages"]["test"]["counts"]["truncated_prompts"] == 3
    record = read_json(StoredAdapter(workspace.stored_model("e")).folder / ADAPTER_RECORD)
    assert record["report"]["truncated_training_examples"] == 3
