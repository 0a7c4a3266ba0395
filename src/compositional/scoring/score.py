"""Score predictions: ROUGE with both tokenizers, chrF and exact match."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compositional.core.files import write_text
from compositional.core.resumable import line_of
from compositional.data import name_of_input
from compositional.prediction import Prediction
from compositional.scoring import INTERVALS
from compositional.scoring.bootstrap import Resampler
from compositional.scoring.intervals import Interval

METRIC_FILE = Path(__file__).with_name("text_overlap.py")
ROUGE_NAMES = ("rouge1", "rouge2", "rougeL", "rougeLsum", "weighted_rouge")


@dataclass(frozen=True)
class Scores:
    """Scores of one split, between 0 and 1. ROUGE under its plain name uses `rouge_tokenizer`; <name>_<tokenizer> says which.

    `intervals` says how the intervals were made.
    """

    headline_metric: str
    rouge_tokenizer: str
    metrics: dict[str, Interval]
    intervals: str = INTERVALS


def choose_tokenizer(asked: str, language: str) -> str:
    """The tokenizer behind ROUGE's plain names: the paper's for English references, the Unicode one otherwise."""
    if asked != "auto":
        return asked
    return "paper" if language == "en" else "unicode"


def default_rouge(scores: dict[str, Any]) -> float | None:
    """The mean of the headline metric by rouge_score's default tokenizer, from a split's entry in results.json.

    None where the headline is by that tokenizer, and in results of an earlier version without it.
    """
    mean = scores.get("metrics", {}).get(f"{scores['headline_metric']}_paper")
    return mean["mean"] if mean and scores["rouge_tokenizer"] != "paper" else None


def score(
    predictions: list[Prediction],
    headline_metric: str,
    rouge_tokenizer: str,
    resamples: int,
    seed: int,
    path: Path | None = None,
) -> Scores:
    """Mean scores with 95 % intervals over the inputs.

    Each example's own go into the file `path`: a line of JSON per example, with the name of its input.
    """
    per_example = scores_per_example([p.output for p in predictions], [p.reference for p in predictions])
    per_example |= {name: per_example[f"{name}_{rouge_tokenizer}"] for name in ROUGE_NAMES}
    inputs, resampler = [name_of_input(one.input) for one in predictions], Resampler(resamples, seed)
    metrics = {name: resampler.interval_over_examples(values, inputs) for name, values in sorted(per_example.items())}
    if path:
        names = (*ROUGE_NAMES, "chrf", "exact_match")
        rows = [
            {"id": one.id, "input": input} | {name: round(per_example[name][number], 6) for name in names}
            for number, (one, input) in enumerate(zip(predictions, inputs, strict=True))
        ]
        write_text(path, "".join(line_of(row) for row in rows))
    return Scores(headline_metric, rouge_tokenizer, metrics)


def scores_per_example(outputs: list[str], references: list[str]) -> dict[str, list[float]]:
    """Each metric's value for each example, of ROUGE as <name>_paper and <name>_unicode."""
    from compositional.scoring.text_overlap import TextOverlap

    # Without a folder of its own, an evaluate module needs a cache that can be written to, though nothing is written.
    with tempfile.TemporaryDirectory() as folder:
        return TextOverlap(keep_in_memory=True, cache_dir=folder).compute(predictions=outputs, references=references)


METRIC_LABELS = {"rougeL": "ROUGE-L", "weighted_rouge": "weighted ROUGE"}
