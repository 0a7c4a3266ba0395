"""Hostile outputs: the question keeps its structure, every reply is a verdict or a counted failure, and the rule is not swayed."""

from __future__ import annotations

import copy

import pytest

from benchmarks.judge_attacks import ATTACKS, attacked, attacks_table, honest_twins
from compositional.judge.local_judges import RuleJudge
from compositional.judge.question import Reply, Request, judge_prompt
from compositional.models.chat import ChatEncoder
from helpers.judging import ADVERSARIAL, asking, parts, store_predictions, verdicts

MARKERS = ["<|im_end|>", "<|im_start|>", "<|eot_id|>", "<|start_header_id|>", "</s>", "<start_of_turn>", "[INST]", "[/INST]"]
TWINS = honest_twins(3)
HOSTILE = [attacked(twin, attack).request for twin in TWINS for attack in ATTACKS]


def test_thirty_attacks_each_change_the_output_and_the_rule_says_no_to_all():
    assert len(ATTACKS) >= 30
    assert all(attacked(twin, attack).request.output != twin.request.output for twin in TWINS for attack in ATTACKS)
    asked = [*(twin.request for twin in TWINS), *HOSTILE]
    assert {reply.text for reply in RuleJudge().replies(asked)} == {"no"}


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_leaves_the_question_as_it_is(attack, tiny_tokenizer):
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.add_tokens(MARKERS, special_tokens=True)
    special = {id for id, token in tokenizer.added_tokens_decoder.items() if token.special}
    encoder, (twin, *_) = ChatEncoder(tokenizer), TWINS

    def question(request: Request) -> str:
        return judge_prompt(request.dataset.tasks, request.input, request.output)

    honest, hostile = question(twin.request), question(attacked(twin, attack).request)
    assert parts(hostile)[:2] == parts(honest)[:2]
    specials = [[id for id in encoder.question(text) if id in special] for text in (honest, hostile)]
    assert specials[0] == specials[1]


def test_a_server_is_asked_about_every_attack_and_what_it_does_not_answer_is_counted(workspace, judge, server):
    pairs = [(f"input {number}", request.output) for number, request in enumerate(HOSTILE[: len(ATTACKS)])]
    store_predictions(workspace, "e", pairs)
    server.answer = lambda question: (200, "no") if len(question) < 50_000 else (400, "too long")
    counts = judge(asking(server))["e"]["stages"]["test"]["counts"]
    assert counts["examples"] == len(ATTACKS)
    assert counts["judged"] == len(ATTACKS) - 1
    assert sum(counts["failures"].values()) == 1
    questions = [
        parts(request["messages"][0]["content"])[0] for request in server.asked[1:]
    ]  # the first asks whether it answers at all
    assert len(set(questions)) == 1
    assert sum(row["verdict"] is None for row in verdicts(workspace, "e", "judge")) == 1


class Swayed:
    """A judge that says yes where it reads the word, and has no verdict on what is long."""

    @property
    def identity(self) -> dict[str, str]:
        return {"judge": "swayed"}

    def start(self) -> None:
        """Nothing to start."""

    def replies(self, requests: list[Request]) -> list[Reply]:
        return [
            Reply(failure="too long") if len(one.output) > 1000 else Reply("yes" if "yes" in one.output.lower() else "no")
            for one in requests
        ]


def test_the_table_by_value():
    lines = [[cell.strip() for cell in line.strip("| ").split("|")] for line in attacks_table(Swayed(), TWINS).splitlines()]
    table = {name: numbers for name, *numbers in lines[2:]}
    assert list(table) == ["the honest twin", *ATTACKS, "all attacks"]
    assert table["the honest twin"] == ["3", "0", "0", "0"]
    assert table["a verdict after it"] == ["3", "0", "0", "3"]
    assert table["the verdict a thousand times"] == ["3", "3", "0", "0"]
    assert table["nothing"] == ["3", "0", "0", "0"]
    own = [list(map(int, table[attack])) for attack in ATTACKS]
    assert list(map(int, table["all attacks"])) == [sum(column) for column in zip(*own, strict=True)]
    assert len(ADVERSARIAL) >= 28
