"""An evaluate module: whether each prediction equals its reference, white space aside."""

from __future__ import annotations

import datasets
import evaluate


class ExactMatchPerExample(evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(
            description="1 where prediction and reference have the same words in the same order, else 0.",
            citation="",
            features=datasets.Features({"predictions": datasets.Value("string"), "references": datasets.Value("string")}),
        )

    def _compute(self, predictions, references):
        pairs = zip(predictions, references, strict=True)
        return {"exact_match": [float(text.split() == reference.split()) for text, reference in pairs]}
