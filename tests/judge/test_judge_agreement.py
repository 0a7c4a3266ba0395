"""The benchmark of a judge model against Pocket's rule: its questions, its tables, and the whole command on a tiny model."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter

import pytest
import torch

from benchmarks.judge_agreement import (
    REFERENCE,
    SUB_TASKS,
    WRONG,
    Answered,
    agreement_table,
    kinds_table,
    make_questions,
    verdicts,
)
from compositional.core.errors import UserError
from compositional.judge.local_judges import RuleJudge, TransformersJudge
from compositional.judge.question import Reply
from compositional.models.model import Model
from helpers import PROJECT
from helpers.judging import ADVERSARIAL

QUESTIONS = make_questions(224, 0)


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("| ").split("|")]


def test_half_of_the_questions_are_references_and_the_rule_says_yes_to_these_only():
    expected = [one.kind == REFERENCE for one in QUESTIONS]
    assert verdicts(RuleJudge(), QUESTIONS) == expected
    assert sum(expected) == 112
    assert Counter(one.kind for one in QUESTIONS) == {REFERENCE: 112} | dict.fromkeys(WRONG, 28)


def test_sets_and_kinds_take_turns_so_that_every_set_has_every_kind():
    names = {f"pocket_{source}_{variant}" for source, variant in SUB_TASKS}
    pairs = Counter((one.request.dataset.name, one.kind) for one in QUESTIONS if one.kind != REFERENCE)
    assert pairs == {(name, kind): 2 for name in names for kind in WRONG}


def test_wrong_outputs_are_what_their_kind_says():
    for right, wrong in zip(QUESTIONS[::2], QUESTIONS[1::2], strict=True):
        assert right.request.input == wrong.request.input
        assert right.example == wrong.example
        reference, output = right.request.output, wrong.request.output
        differing = sum(one != other for one, other in zip(reference.split(), output.split(), strict=False))
        if wrong.kind == "one word replaced":
            assert (len(reference.split()), differing) == (len(output.split()), 1)
        else:
            assert differing > 1, (reference, output)


def test_the_questions_follow_from_the_seed():
    def outputs(count: int, seed: int) -> list[tuple[str, str]]:
        return [(one.kind, one.request.output) for one in make_questions(count, seed)]

    assert outputs(40, 0) == outputs(40, 0) == outputs(80, 0)[:40]
    assert outputs(40, 0) != outputs(40, 1)


def test_the_tables_by_value():
    """Of 112 references the model says yes to 84, of 112 wrong outputs to 28: kappa is (0.75 - 0.5) / 0.5."""
    answered, seen = [], Counter()
    for one, rule in zip(QUESTIONS, verdicts(RuleJudge(), QUESTIONS), strict=True):
        seen[rule] += 1
        answered.append(Answered(one, rule, (seen[rule] % 4 == 0) != rule))
    header, _, line = agreement_table(answered, 500, 0).splitlines()
    assert cells(header)[-2:] == ["by chance %", "Cohen's κ [95 %]"]
    assert cells(line)[:6] == ["224", "0", "50.0", "50.0", "75.0", "50.0"]
    assert cells(line)[6].startswith("0.50 [0.")
    lines = [cells(line) for line in kinds_table(answered).splitlines()[2:]]
    assert lines[0] == [REFERENCE, "112", "0", "112", "84"]
    assert [line[:4] for line in lines[1:]] == [[kind, "28", "0", "0"] for kind in WRONG]
    assert sum(int(line[4]) for line in lines[1:]) == 28


def test_failed_verdicts_are_counted_and_left_out():
    answered = [Answered(one, one.kind == REFERENCE, None if number < 24 else True) for number, one in enumerate(QUESTIONS)]
    line = cells(agreement_table(answered, 50, 0).splitlines()[2])
    assert line == ["224", "24", "50.0", "100.0", "50.0", "50.0", "0.00 [0.00, 0.00]"]
    failed = [int(cells(line)[2]) for line in kinds_table(answered).splitlines()[2:]]
    assert (failed[0], sum(failed)) == (12, 24)
    nothing = [Answered(one, True, None) for one in QUESTIONS]
    assert cells(agreement_table(nothing, 50, 0).splitlines()[2]) == ["224", "224", *["—"] * 5]


# ---- the judge by transformers


class Favouring(torch.nn.Module):
    """A language model whose next token is always the first of `tokens` that may be said."""

    device = "cpu"

    def __init__(self, size: int, tokens: list[int]) -> None:
        super().__init__()
        self.logits = torch.zeros(1, 1, size)
        for number, token in enumerate(tokens):
            self.logits[0, 0, token] = 10.0 - number

    def forward(self, input_ids: torch.Tensor, logits_to_keep: int) -> torch.nn.Module:
        return self


@pytest.mark.parametrize(("likeliest", "word"), [("xyn", "yes"), ("xny", "no")])
def test_the_likeliest_token_that_an_answer_begins_with_decides(likeliest, word, tiny_models, monkeypatch):
    model = Model(str(tiny_models["llama"]))
    vocabulary = model.tokenizer.get_vocab()
    tokens = [vocabulary[letter] for letter in likeliest]
    judge = TransformersJudge(model, "float32", 1012)
    monkeypatch.setattr(Model, "load", lambda self, dtype: Favouring(len(vocabulary), tokens))
    assert judge.replies([QUESTIONS[0].request]) == [Reply(word)]


def test_questions_that_cannot_be_asked_are_failures_and_the_others_are_answered(tiny_models):
    judge = TransformersJudge(Model(str(tiny_models["llama"])), "float32", 1012)
    dataset, split = QUESTIONS[0].request.dataset, "test"
    requests = [type(QUESTIONS[0].request)(dataset, split, "Tom: Hi!", output) for output in [*ADVERSARIAL, "ja " * 3334]]
    judge.start()
    *replies, too_long = judge.replies(requests)
    assert {reply.text for reply in replies} <= {"yes", "no"}
    assert too_long.text is None
    assert too_long.failure.startswith("the question is longer than 1012 tokens")
    assert judge.replies(requests[3:4]) == [replies[3]], "a reply does not depend on the others"


def test_a_vocabulary_that_cannot_begin_an_answer_is_a_mistake(tiny_models, monkeypatch):
    model = Model(str(tiny_models["llama"]))
    monkeypatch.setattr(type(model.tokenizer), "get_vocab", lambda self: {"a": 0, "<|im_end|>": 1})
    with pytest.raises(UserError, match="has no token that yes or no begins with"):
        TransformersJudge(model, "float32", 1012)


# ---- the command


def run_command(*words: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "benchmarks.judge_agreement", *words]
    return subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)


@pytest.mark.slow(8)
def test_the_command_asks_a_model_and_prints_both_tables(tiny_models):
    done = run_command("--model", str(tiny_models["llama"]), "--questions", "12", "--bootstrap_resamples", "20")
    assert done.returncode == 0, done.stderr[-2000:]
    lines = done.stdout.splitlines()
    assert cells(lines[2])[:3] == ["12", "0", "50.0"]
    assert cells(lines[6])[:4] == [REFERENCE, "6", "0", "6"]
    assert lines[-1].startswith("llama, float32; ")


@pytest.mark.slow(4)
@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--model", "./none"], "error: --model ./none: there is no such folder"),
        (["--model", "pocket", "--questions", "7"], "error: --questions 7: expected an even number from 2 to 500"),
        (["--model", "pocket", "--bootstrap_resamples", "0"], "error: --bootstrap_resamples 0: must be at least 1"),
    ],
)
def test_mistakes_are_one_line_with_exit_code_2(words, line):
    done = run_command(*words)
    assert (done.returncode, done.stderr.splitlines(), done.stdout) == (2, [line], "")
