"""An evaluate module: ROUGE F-measures of each prediction, with the paper's tokenizer or a Unicode one."""

from __future__ import annotations

import unicodedata

import datasets
import evaluate
import regex
from rouge_score import rouge_scorer

_CITATION = "Lin, 2004. ROUGE: A Package for Automatic Evaluation of Summaries."
_DESCRIPTION = """ROUGE-1, 2, L and Lsum F-measures and weighted ROUGE = R1/6 + R2/3 + R3/2, as lists, an entry per prediction.

tokenizer="paper": rouge_score's own, stemmed; it keeps ASCII letters and digits only. tokenizer="unicode": words of any script,
case-folded, not stemmed; scripts without spaces are split into characters."""

_ROUGES = ["rouge1", "rouge2", "rouge3", "rougeL", "rougeLsum"]
# Scripts that put no spaces between words: each character is a token.
_UNSPACED = r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]"
_WORD = regex.compile(rf"{_UNSPACED}\p{{M}}*|(?!{_UNSPACED})[\p{{L}}\p{{N}}](?:(?!{_UNSPACED})[\p{{L}}\p{{M}}\p{{N}}])*")


class UnicodeTokenizer:
    """Tokens of any script; a text of symbols alone is split into its characters."""

    def tokenize(self, text):
        folded = unicodedata.normalize("NFC", text).casefold()
        return _WORD.findall(folded) or [character for character in folded if not character.isspace()]


class RougePerExample(evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            features=datasets.Features({"predictions": datasets.Value("string"), "references": datasets.Value("string")}),
        )

    def _compute(self, predictions, references, tokenizer="paper"):
        own = UnicodeTokenizer() if tokenizer == "unicode" else None
        scorer = rouge_scorer.RougeScorer(_ROUGES, use_stemmer=own is None, tokenizer=own)
        rows = [scorer.score(target=reference, prediction=text) for text, reference in zip(predictions, references, strict=True)]
        scores = {name: [row[name].fmeasure for row in rows] for name in _ROUGES if name != "rouge3"}
        scores["weighted_rouge"] = [
            row["rouge1"].fmeasure / 6 + row["rouge2"].fmeasure / 3 + row["rouge3"].fmeasure / 2 for row in rows
        ]
        return scores
