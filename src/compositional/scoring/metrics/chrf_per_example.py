"""An evaluate module: chrF of each prediction, by sacrebleu."""

from __future__ import annotations

import datasets
import evaluate
from sacrebleu.metrics import CHRF


class ChrfPerExample(evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(
            description="chrF (character 6-grams, beta 2) of each prediction, between 0 and 1.",
            citation="Popović, 2015. chrF: character n-gram F-score for automatic MT evaluation.",
            features=datasets.Features({"predictions": datasets.Value("string"), "references": datasets.Value("string")}),
        )

    def _compute(self, predictions, references):
        scorer = CHRF()
        pairs = zip(predictions, references, strict=True)
        return {"chrf": [scorer.sentence_score(text, [reference]).score / 100 for text, reference in pairs]}
