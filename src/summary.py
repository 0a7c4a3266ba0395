"""The last lines that a run shows: scores with intervals, what was cut, and where everything is."""

from __future__ import annotations

import logging

from src.files import read_json
from src.plan import Plan
from src.tables import METRIC_LABELS, percent

logger = logging.getLogger(__name__)

SHOWN = ("rougeL", "weighted_rouge", "chrf", "exact_match")


def show_results(plan: Plan, note: str = "") -> None:
    """Show the results.json of an experiment in a few lines."""
    path = plan.workspace.results(plan.arguments.experiment_name)
    results = read_json(path)
    for stage, scores in results["stages"].items():
        shown = ", ".join(f"{METRIC_LABELS.get(name, name)} {percent(scores['metrics'][name])}" for name in SHOWN)
        counts = scores["counts"]
        logger.info("%s, %s examples: %s", stage, counts["examples"], shown)
        cut = [
            f"{count} {name.replace('_', ' ')}" for name, count in counts.items() if name not in ("examples", "available") and count
        ]
        if cut:
            logger.info("%s: %s", stage, ", ".join(cut))
    logger.info("%s%s", path, f" ({note})" if note else "")
