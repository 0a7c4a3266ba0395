"""An evaluate module, loaded by its path: ROUGE with two tokenizers, chrF and exact match of each prediction, between 0 and 1."""

from __future__ import annotations

import unicodedata

import datasets
import evaluate
import regex
from rouge_score import rouge_scorer
from sacrebleu.metrics import CHRF

_CITATION = """Lin, 2004. ROUGE: A Package for Automatic Evaluation of Summaries.
Popović, 2015. chrF: character n-gram F-score for automatic MT evaluation."""
_DESCRIPTION = """Lists with an entry per prediction.

<rouge>_paper and <rouge>_unicode: ROUGE-1, 2, L and Lsum F-measures and weighted_rouge = R1/6 + R2/3 + R3/2.
paper: rouge_score's own tokenizer, stemmed; it keeps ASCII letters and digits only. unicode: words of any script, case-folded, not
stemmed; scripts without spaces are split into characters. chrf: character 6-grams, beta 2, by sacrebleu. exact_match: 1 where
prediction and reference have the same words in the same order, else 0."""

_ROUGES = ["rouge1", "rouge2", "rouge3", "rougeL", "rougeLsum"]
# Scripts that put no spaces between words: each character is a token.
_UNSPACED = r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]"
_WORD = regex.compile(rf"{_UNSPACED}\p{{M}}*|(?!{_UNSPACED})[\p{{L}}\p{{N}}](?:(?!{_UNSPACED})[\p{{L}}\p{{M}}\p{{N}}])*")


class UnicodeTokenizer:
    """Tokens of any script; a text of symbols alone is split into its characters."""

    def tokenize(self, text):
        """The tokens, case-folded, in their order."""
        folded = unicodedata.normalize("NFC", text).casefold()
        return _WORD.findall(folded) or [character for character in folded if not character.isspace()]


class TextOverlap(evaluate.Metric):
    """Scores of (n) predictions against (n) references, each figure a list of (n) values between 0 and 1."""

    def _info(self):
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            features=datasets.Features({"predictions": datasets.Value("string"), "references": datasets.Value("string")}),
        )

    def _compute(self, predictions, references):
        pairs = list(zip(predictions, references, strict=True))
        chrf = CHRF()
        return {
            **_rouge(pairs, "paper", rouge_scorer.RougeScorer(_ROUGES, use_stemmer=True)),
            **_rouge(pairs, "unicode", rouge_scorer.RougeScorer(_ROUGES, tokenizer=UnicodeTokenizer())),
            "chrf": [chrf.sentence_score(text, [reference]).score / 100 for text, reference in pairs],
            "exact_match": [float(text.split() == reference.split()) for text, reference in pairs],
        }


def _rouge(pairs, tokenizer, scorer):
    rows = [scorer.score(target=reference, prediction=text) for text, reference in pairs]
    scores = {f"{name}_{tokenizer}": [row[name].fmeasure for row in rows] for name in _ROUGES if name != "rouge3"}
    scores[f"weighted_rouge_{tokenizer}"] = [
        row["rouge1"].fmeasure / 6 + row["rouge2"].fmeasure / 3 + row["rouge3"].fmeasure / 2 for row in rows
    ]
    return scores
