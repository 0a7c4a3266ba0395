"""How far a judge model agrees with Pocket's judge by rule, on outputs that are right and wrong in known ways.

    python -m benchmarks.judge_agreement --model FOLDER_OR_ID

Takes test examples of Pocket's 14 compositional sets in turn. Each gives two questions: the reference, and an output that is wrong
in one of four ways (the reference untransformed, of another example, with one word replaced, or in another language or tone). The
rule says yes to the first and no to the second. The model is asked `llm_judge_eval.py`'s question by transformers, and its greedy
reply can only be yes or no. Agreement by chance follows from both shares of yes. Cohen's kappa is 1 for full agreement and 0 for
chance. Its 95 % bootstrap interval resamples examples, each with both of its questions. Prints Markdown tables.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from random import Random

from compositional.core.errors import UserError
from compositional.core.logs import quieten_libraries
from compositional.core.machine import resolve_dtype
from compositional.core.processes import exit_code_of
from compositional.core.tables import aligned
from compositional.data import Locations, find_dataset
from compositional.judge.judging import LONGEST_QUESTION
from compositional.judge.local_judges import RuleJudge, TransformersJudge
from compositional.judge.question import Judge, Request, verdict_of
from compositional.models.model import Model
from compositional.pocket.examples import SPLIT_SIZES, MeaningExample, draw_examples
from compositional.pocket.lexicon import LANGUAGES, TONES
from compositional.pocket.rules import says
from compositional.pocket.sentences import render_all
from compositional.scoring.agreement import Agreement, agreement

SPLIT = "test"
SOURCES, VARIANTS = ("dialogs", "replies"), (*LANGUAGES, *TONES)
SUB_TASKS = [(source, variant) for source in SOURCES for variant in VARIANTS]
REFERENCE = "reference"
WRONG = ("not translated, tone not changed", "reference of another example", "one word replaced", "another language or tone")
MOST_QUESTIONS = 2 * SPLIT_SIZES[SPLIT]


@dataclass(frozen=True)
class Question:
    """An output to be judged, the kind of output, and the example that it answers."""

    kind: str
    example: str
    request: Request


@dataclass(frozen=True)
class Answered:
    """A question with the verdicts of the rule and of the model: True for yes, None for a failed verdict."""

    question: Question
    rule: bool | None
    model: bool | None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="judge model: hub id or folder")
    parser.add_argument("--questions", type=int, default=200, help=f"an even number up to {MOST_QUESTIONS}; half are references")
    parser.add_argument("--dtype", default="auto", choices=("auto", "float32", "bfloat16", "float16"))
    parser.add_argument("--seed", type=int, default=0, help="seed of the replaced words and of the resampling")
    parser.add_argument("--bootstrap_resamples", type=int, default=1000)
    options = parser.parse_args()
    return exit_code_of(lambda: run(options))


def run(options: argparse.Namespace) -> None:
    """Ask both judges and print the tables; raises UserError for the user's mistakes."""
    if options.questions % 2 or not 0 < options.questions <= MOST_QUESTIONS:
        raise UserError(f"--questions {options.questions}: expected an even number from 2 to {MOST_QUESTIONS}")
    if options.bootstrap_resamples < 1:
        raise UserError(f"--bootstrap_resamples {options.bootstrap_resamples}: must be at least 1")
    judge = model_judge(options.model, options.dtype)
    questions = make_questions(options.questions, options.seed)
    start = time.monotonic()
    model_verdicts = verdicts(judge, questions)
    seconds = (time.monotonic() - start) / len(questions)
    answered = [Answered(*row) for row in zip(questions, verdicts(RuleJudge(), questions), model_verdicts, strict=True)]
    print(agreement_table(answered, options.bootstrap_resamples, options.seed))
    print(kinds_table(answered))
    print(f"{Path(options.model).name}, {judge.identity['dtype']}; {seconds:.2f} s a question")


def model_judge(name: str, dtype: str) -> TransformersJudge:
    """A started judge model, by transformers; raises UserError when it can't be loaded."""
    model = Model(name, "--model")
    model.check_exists()
    quieten_libraries()
    judge = TransformersJudge(model, resolve_dtype(dtype), min(LONGEST_QUESTION, model.longest_sequence or LONGEST_QUESTION))
    judge.start()
    return judge


def make_questions(count: int, seed: int) -> list[Question]:
    """`count` questions, half of them references; sets and kinds of wrong outputs take turns."""
    random = Random(f"judge agreement {seed}")
    examples = {source: list(draw_examples(source, SPLIT)) for source in SOURCES}
    questions = []
    for number in range(count // 2):
        source, variant = SUB_TASKS[number % len(SUB_TASKS)]
        kind = WRONG[(number + number // len(SUB_TASKS)) % len(WRONG)]
        dataset = find_dataset(f"pocket_{source}_{variant}", Locations(Path("data"), raw=None))
        own, other = examples[source][number], examples[source][(number + 1) % SPLIT_SIZES[SPLIT]]
        outputs = {REFERENCE: render_all(own.meaning, variant), kind: wrong_output(kind, own, other, variant, random)}
        for of_kind, output in outputs.items():
            questions.append(Question(of_kind, f"{source} {number}", Request(dataset, SPLIT, own.input, output)))
    return questions


def wrong_output(kind: str, own: MeaningExample, other: MeaningExample, variant: str, random: Random) -> str:
    """An output of one of the kinds of WRONG, to which the rule says no."""
    reference = render_all(own.meaning, variant)
    if kind == WRONG[0]:
        return render_all(own.meaning, "en")
    if kind == WRONG[1]:
        return render_all(other.meaning, variant)
    if kind == WRONG[3]:
        return render_all(own.meaning, VARIANTS[(VARIANTS.index(variant) + 1) % len(VARIANTS)])
    replaced = reference
    while says(replaced, own.meaning, variant):  # another article, for example, does not count
        replaced = with_word_replaced(reference, render_all(other.meaning, variant), random)
    return replaced


def with_word_replaced(text: str, other: str, random: Random) -> str:
    """A text with a word of another text in place of one of its own."""
    place = random.choice(list(re.finditer(r"\w+", text)))
    word = random.choice(re.findall(r"\w+", other))
    return text[: place.start()] + word + text[place.end() :]


def verdicts(judge: Judge, questions: list[Question]) -> list[bool | None]:
    """A judge's verdicts in the order of the questions: True for yes, None for a failure."""
    replies = judge.replies([question.request for question in questions])
    found = [verdict_of(question.kind, reply).verdict for question, reply in zip(questions, replies, strict=True)]
    return [None if verdict is None else verdict == "yes" for verdict in found]


def agreement_table(answered: list[Answered], resamples: int, seed: int) -> str:
    """Agreement over the questions on which both judges have a verdict; the others are counted as failed."""
    judged = [one for one in answered if one.rule is not None and one.model is not None]
    header = ("questions", "failed", "yes, rule %", "yes, model %", "agreement %", "by chance %", "Cohen's κ [95 %]")
    counts = (str(len(answered)), str(len(answered) - len(judged)))
    if not judged:
        return aligned([header, (*counts, *["—"] * 5)])
    groups = [one.question.example for one in judged]
    found = agreement([bool(one.rule) for one in judged], [bool(one.model) for one in judged], groups, resamples, seed)
    shares = (found.first_yes, found.second_yes, found.observed, found.expected)
    return aligned([header, (*counts, *(f"{100 * share:.1f}" for share in shares), kappa_text(found))])


def kappa_text(found: Agreement) -> str:
    """`0.12 [0.01, 0.22]`; a dash where kappa is undefined."""
    if found.interval is None:
        return "—"
    return f"{found.interval.mean:.2f} [{found.interval.low:.2f}, {found.interval.high:.2f}]"


def kinds_table(answered: list[Answered]) -> str:
    """By kind of output: the number of questions, failed verdicts, and yes of both judges."""
    lines = [("output", "questions", "failed", "yes, rule", "yes, model")]
    for kind in (REFERENCE, *WRONG):
        own = [one for one in answered if one.question.kind == kind]
        failed = sum(one.rule is None or one.model is None for one in own)
        lines.append(
            (kind, *map(str, (len(own), failed, sum(one.rule is True for one in own), sum(one.model is True for one in own))))
        )
    return aligned(lines)


if __name__ == "__main__":
    sys.exit(main())
