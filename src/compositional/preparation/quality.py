"""How surely a text is in a language, by the lingua library: the benchmark's languages are told from one another."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

from compositional.tasks import all_tasks


def confidences(texts: list[str], language: str) -> list[float]:
    """For each text, the probability that it is in a language (ISO 639-1 code) rather than in another one of the tasks."""
    from lingua import IsoCode639_1, Language

    expected = Language.from_iso_code_639_1(getattr(IsoCode639_1, language.upper()))
    return _detector().compute_language_confidence_in_parallel(texts, expected) if texts else []


@cache
def _detector() -> Any:
    from lingua import IsoCode639_1, LanguageDetectorBuilder

    codes = sorted({task.language.upper() for task in all_tasks()})
    return LanguageDetectorBuilder.from_iso_codes_639_1(*(getattr(IsoCode639_1, code) for code in codes)).build()


# What prepared sets record of this file. It needs a new value when findings change.
REVISION = "eff71df3286cf534f110fb4cca6a27efa04dae58048605bf5f86d3ccfbcdc60d"

FINDINGS = {
    "empty": "the target is blank",
    "runaway": "the target is longer than 80 + 3 × the characters of the text it was made from, or repeats itself as that doesn't: "
    "three words 6 times, a character 20 times, or two to eight of them 10 times",
    "cut_off": "the text it was made from ends a sentence (. ! ? …), and a rewritten target does not",
    "wrong_language": "a language identifier gives the target's language less than 20 % (texts of 20 letters and more)",
    "copy": "the target is the text it was made from",
    "end_marker": "a model's marker was left in the target",
    "input_in_later_split": "the same input stands in the validation or test split (for a validation example: in the test split)",
    "example_in_later_split": "the same, and with the same target",
}
_MARKERS = re.compile(r"###|</?s>|<pad>|<unk>|<\|[^|<>\s][^|<>]{0,40}\|>|<eos>|<bos>|\[/?INST\]")
_END = re.compile(r"[.!?…][\"'”’»)\]]*\s*$")
# A character twenty times, or two to eight of them ten times in a row; rows of digits and of ASCII punctuation are no loops.
_LOOP = re.compile(r"([^\s\d!-/:-@\[-`{-~])\1{19}|([^\s\d!-/:-@\[-`{-~]{2,8}?)\2{9}")
_LETTERS_TO_TELL_A_LANGUAGE = 20
# Low enough for good targets with foreign names in them, high enough for English that was left as it is.
_LEAST_CONFIDENCE = 0.2
_REPEATED_WORDS, _REPETITIONS = 3, 6


@dataclass(frozen=True)
class PreparedExample:
    """An example as it is saved. `source` is the text that its target was made from (None: the target is as published)."""

    id: str
    input: str
    target: str
    source: str | None = None
    findings: tuple[str, ...] = ()


def findings_of(splits: dict[str, list[PreparedExample]], language: str, rewrites: bool) -> dict[str, list[tuple[str, ...]]]:
    """The findings of each example, by split, in their order. `rewrites`: do targets say what their inputs (or sources) say?"""
    found = {}
    for split, examples in splits.items():
        later = _later_examples(splits, split)
        inputs = {example.input for example in later}
        pairs = {(example.input, example.target) for example in later}
        of_targets = target_findings(examples, language, rewrites)
        found[split] = [
            (*findings, *_of_later_splits(example, inputs, pairs)) for example, findings in zip(examples, of_targets, strict=True)
        ]
    return found


def target_findings(examples: list[PreparedExample], language: str, rewrites: bool) -> list[list[str]]:
    """The findings that a target shows by itself or beside the text it was made from."""
    long = list({example.target for example in examples if _letters(example.target) >= _LETTERS_TO_TELL_A_LANGUAGE})
    confidence = dict(zip(long, confidences(long, language), strict=True))
    all_findings = []
    for example in examples:
        target, source = example.target, example.source or example.input
        shown = {
            "empty": not target.strip(),
            "runaway": _has_loop(target, source) or (rewrites and len(target) > 80 + 3 * len(source)),
            "cut_off": example.source is not None and _is_cut_off(target, source),
            "wrong_language": confidence.get(target, 1.0) < _LEAST_CONFIDENCE,
            "copy": bool(target.strip()) and _plain(target) == _plain(source),
            "end_marker": not set(_MARKERS.findall(target)) <= set(_MARKERS.findall(source)),
        }
        all_findings.append([name for name, is_shown in shown.items() if is_shown])
    return all_findings


def _later_examples(splits: dict[str, list[PreparedExample]], split: str) -> Iterable[PreparedExample]:
    names = list(splits)
    return [example for name in names[names.index(split) + 1 :] for example in splits[name]]


def _of_later_splits(example: PreparedExample, inputs: set[str], pairs: set[tuple[str, str]]) -> Iterable[str]:
    if example.input in inputs:
        yield "input_in_later_split"
    if (example.input, example.target) in pairs:
        yield "example_in_later_split"


def _letters(text: str) -> int:
    return sum(map(str.isalpha, text))


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


def _is_cut_off(target: str, source: str) -> bool:
    return bool(target.strip() and _END.search(source) and not _END.search(target))


def _has_loop(target: str, source: str) -> bool:
    return _repeats_itself(target) and not _repeats_itself(source)


def _repeats_itself(text: str) -> bool:
    """As degenerate decoding does: three words six times, a character twenty times in a row, or two to eight of them ten times."""
    if _LOOP.search(text):
        return True
    words = text.split()
    if len(words) - len(set(words)) < _REPETITIONS - 1:
        return False
    phrases = Counter(zip(*(words[start:] for start in range(_REPEATED_WORDS)), strict=False))
    return max(phrases.values(), default=0) >= _REPETITIONS
