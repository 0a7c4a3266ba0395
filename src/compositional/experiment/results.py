"""The records of an experiment (seconds per stage, results at the end), and the summary that a run shows."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from compositional.core.errors import UserError
from compositional.core.files import write_json
from compositional.core.machine import environment
from compositional.core.processes import is_main_process
from compositional.core.recorded import read_recorded, wrong_parts
from compositional.core.tables import percent
from compositional.experiment.arguments import Arguments
from compositional.experiment.plan import Plan
from compositional.experiment.resume import read_results
from compositional.prediction import Prediction
from compositional.scoring.score import METRIC_LABELS, Scores, default_rouge


@dataclass(frozen=True)
class Cost:
    """The cost of a method on a device, beyond the base model and one stored LoRA per task (the paper's Table 2)."""

    inferences_per_example: int = 1
    extra_parameters: int = 0
    extra_bytes: int = 0


@dataclass
class Journal:
    """The seconds spent on each stage, saved after each one, so that interrupted runs count."""

    path: Path
    seconds: dict[str, float] = field(default_factory=dict)

    @classmethod
    def open(cls, path: Path) -> Journal:
        """The journal at a path, with the entries of earlier runs."""
        seconds = read_recorded(path)
        if wrong := wrong_parts(seconds, {"*": float}):
            raise UserError(f"{path} is damaged: {', '.join(wrong)} is no number of seconds; remove the file")
        return cls(path, seconds)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the block's seconds to those of earlier, interrupted runs of the stage."""
        start = time.monotonic()
        try:
            yield
        finally:
            self.seconds[stage] = round(self.seconds.get(stage, 0) + time.monotonic() - start, 2)
            if is_main_process():
                write_json(self.path, self.seconds)


def results_record(
    experiment: str,
    method: str,
    journal: Journal,
    cost: Cost,
    scores: dict[str, Scores],
    predictions: dict[str, list[Prediction]],
    training: dict[str, Any] | None,
    arguments: Arguments,
    settings: dict[str, Any],
    available: dict[str, int],
) -> dict[str, Any]:
    """The content of results.json."""
    return {
        "experiment": experiment,
        "method": method,
        "stages": {stage: asdict(scores[stage]) | {"counts": counts(predictions[stage], available[stage])} for stage in scores},
        "cost": asdict(cost),
        "training": training,
        "seconds": journal.seconds | {"total": round(sum(journal.seconds.values()), 2)},
        "settings": settings,
        "arguments": asdict(arguments),
        "environment": environment(),
    }


def counts(predictions: list[Prediction], available: int) -> dict[str, int]:
    """The number of examples, of those available in the split, and of truncated prompts and cut-off or empty outputs."""
    return {
        "examples": len(predictions),
        "available": available,
        "truncated_prompts": sum(prediction.prompt_truncated for prediction in predictions),
        "outputs_cut_off": sum(prediction.output_cut_off for prediction in predictions),
        "empty_outputs": sum(not prediction.output for prediction in predictions),
    }


logger = logging.getLogger(__name__)

SHOWN = ("rougeL", "weighted_rouge", "chrf", "exact_match")


def show_results(plan: Plan, note: str = "") -> None:
    """Log a short summary of an experiment's results.json."""
    path = plan.workspace.results(plan.arguments.experiment_name)
    results = read_results(path)
    for stage, scores in results["stages"].items():
        metrics = scores["metrics"]
        shown = ", ".join(f"{METRIC_LABELS.get(name, name)} {percent(metrics[name])}" for name in SHOWN if name in metrics)
        counts = scores["counts"]
        logger.info("%s, %s examples: %s", stage, counts["examples"], shown)
        if (default := default_rouge(scores)) is not None:
            label = METRIC_LABELS[scores["headline_metric"]]
            logger.info("%s, %s by rouge_score's default tokenizer, as likely the paper's: %.1f", stage, label, 100 * default)
        incomplete = [
            f"{count} {name.replace('_', ' ')}" for name, count in counts.items() if name not in ("examples", "available") and count
        ]
        if incomplete:
            logger.info("%s: %s", stage, ", ".join(incomplete))
    logger.info("%s%s", path, f" ({note})" if note else "")
