"""The paper (EMNLP 2025, arXiv 2507.16083): models, languages, tones, main table, and what its Table 2 says methods cost."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PaperModel:
    """A model: its name in tables, the end of its experiments' names, its hub id, and sizes from its public configuration."""

    name: str
    suffix: str
    hub_id: str
    layers: int
    hidden_size: int
    key_value_size: int
    feed_forward_size: int


PAPER_MODELS = (
    PaperModel("Llama 3.2 1B", "llama", "meta-llama/Llama-3.2-1B-Instruct", 16, 2048, 512, 8192),
    PaperModel("Qwen2.5 1.5B", "qwen", "Qwen/Qwen2.5-1.5B-Instruct", 28, 1536, 256, 8960),
    PaperModel("StableLM 2 1.6B", "slm_v1", "stabilityai/stablelm-2-1_6b-chat", 24, 2048, 2048, 5632),
)


@dataclass(frozen=True)
class PaperScores:
    """The headline metric (ROUGE-L of summaries, weighted ROUGE of replies) and the LLM judge's share of good outputs.

    Both in percent, means over the paper's models and languages or tones.
    """

    quality: float
    judged_good: float


# The languages and tones of its auxiliary tasks; there may be tasks with others, which are not the benchmark's.
LANGUAGES = ("es", "fr", "de")
TONES = ("professional", "casual", "witty", "paraphrase")
# Main and auxiliary task of each pair of columns.
COMPOSITIONS = (
    ("summarization", "translation"),
    ("summarization", "tone_adjustment"),
    ("reply", "translation"),
    ("reply", "tone_adjustment"),
)
_ROWS = {
    "Zero-shot": (7.49, 0.44, 13.93, 6.52, 2.03, 4.11, 3.53, 33.66),
    "Main-task LoRA": (13.39, 3.49, 16.43, 4.18, 1.25, 7.17, 9.12, 36.25),
    "Auxiliary-task LoRA": (13.99, 0.30, 14.33, 5.81, 4.03, 4.73, 4.59, 36.68),
    "In-context learning": (14.46, 10.95, 16.96, 24.12, 3.93, 8.72, 4.66, 46.23),
    "Linear merge": (14.27, 0.33, 15.26, 2.74, 3.94, 12.81, 7.72, 41.93),
    "Concat merge": (14.39, 0.34, 15.27, 2.76, 3.97, 13.10, 7.65, 41.77),
    "TIES merge": (12.25, 0.81, 14.95, 6.06, 3.53, 8.30, 6.47, 47.87),
    "DARE merge": (9.27, 0.68, 14.51, 6.34, 2.95, 8.57, 4.56, 41.76),
    "Slerp merge": (13.96, 0.54, 14.87, 4.87, 3.73, 9.04, 6.57, 46.97),
    "LoraHub merge": (13.78, 1.59, 16.13, 3.03, 3.26, 12.69, 8.69, 39.07),
    "LM-Cocktail merge": (13.62, 0.70, 14.88, 5.70, 3.24, 7.93, 6.67, 48.76),
    "DAM/ZipLoRA merge": (16.19, 17.16, 15.68, 2.78, 4.62, 31.88, 8.00, 43.19),
    "Multi-step LoRA usage": (21.25, 72.92, 20.23, 34.32, 10.04, 69.83, 8.09, 45.78),
    "Joint-expert LoRA": (21.36, 49.85, 19.08, 16.14, 14.99, 65.73, 14.33, 47.06),
    "Learnable Calibration": (25.40, 59.23, 24.58, 28.89, 8.85, 57.46, 10.86, 44.99),
    "Learnable Calibration++": (28.64, 65.15, 26.96, 34.34, 12.14, 63.81, 13.54, 45.40),
    "Shared Learnable Calibration": (17.04, 29.91, 20.98, 16.86, 6.63, 49.23, 9.23, 39.61),
    "Shared Learnable Calibration++": (19.23, 32.61, 22.68, 15.54, 9.99, 56.74, 11.06, 42.33),
}
LABELS = tuple(_ROWS)
# The table's main block: every row but the shared calibrations.
MAIN_BLOCK = tuple(label for label in LABELS if not label.startswith("Shared"))


def paper_scores(label: str, main_task: str, auxiliary_task: str) -> PaperScores | None:
    """A method's scores on a compositional task, by the names of its tasks; None for a method that the paper doesn't have."""
    if label not in _ROWS:
        return None
    column = 2 * COMPOSITIONS.index((main_task, auxiliary_task))
    return PaperScores(*_ROWS[label][column : column + 2])


@dataclass(frozen=True)
class PaperCost:
    """Mean extra parameters and storage over the paper's models, as Table 2 prints them."""

    parameters: str
    storage: str


PAPER_COSTS = {
    "Multi-step LoRA usage": PaperCost("0", "0.00 MB"),
    "Joint-expert LoRA": PaperCost("30M", "57.10 MB"),
    "Learnable Calibration": PaperCost("23K", "0.05 MB"),
    "Learnable Calibration++": PaperCost("166K", "0.32 MB"),
}
