"""What is written down of an experiment: settings at its start, seconds as it goes, results at its end."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from src.arguments import Arguments
from src.errors import UserError
from src.files import read_json, write_json
from src.prediction import Prediction
from src.processes import is_main_process
from src.scoring.score import Scores

RECORD_FILE = "experiment.json"
PACKAGES = ("torch", "transformers", "peft", "datasets", "evaluate", "accelerate", "rouge-score", "sacrebleu", "numpy")


@dataclass(frozen=True)
class Cost:
    """What a method costs a device beyond the base model and one stored LoRA per task (the paper's Table 2)."""

    inferences_per_example: int = 1
    extra_parameters: int = 0
    extra_bytes: int = 0


@dataclass
class Journal:
    """Settings and seconds of an experiment, kept in its output folder from the start."""

    path: Path
    settings: dict[str, Any]
    seconds: dict[str, float] = field(default_factory=dict)

    @classmethod
    def open(cls, path: Path, settings: dict[str, Any]) -> Journal:
        """Start a journal or go on with one; raises UserError when the settings differ from those it was begun with."""
        journal = cls(path, settings)
        if path.is_file():
            earlier = read_json(path)
            check_same_settings(path.parent.name, earlier["settings"], settings)
            journal = cls(path, earlier["settings"] | settings, earlier["seconds"])
        journal.save()
        return journal

    def save(self) -> None:
        if is_main_process():
            write_json(self.path, {"settings": self.settings, "seconds": self.seconds})

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the seconds that a block takes to those of earlier, interrupted runs of it."""
        start = time.monotonic()
        try:
            yield
        finally:
            self.seconds[stage] = round(self.seconds.get(stage, 0) + time.monotonic() - start, 2)
            self.save()


def check_same_settings(experiment: str, earlier: dict[str, Any], now: dict[str, Any]) -> None:
    """Raise UserError that lists the settings in which a run differs from an earlier one of the same name."""
    differing = [key for key in earlier.keys() & now.keys() if earlier[key] != now[key]]
    if differing:
        listed = "; ".join(f"{key} was {_shown(earlier[key])}, is {_shown(now[key])}" for key in sorted(differing))
        raise UserError(f"experiment {experiment} was begun with other settings ({listed}): choose another name, or --overwrite")


def _shown(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else text[:12] + "…"


def results_record(
    experiment: str,
    method: str,
    journal: Journal,
    cost: Cost,
    scores: dict[str, Scores],
    predictions: dict[str, list[Prediction]],
    training: dict[str, Any] | None,
    arguments: Arguments,
) -> dict[str, Any]:
    """The content of results.json."""
    return {
        "experiment": experiment,
        "method": method,
        "stages": {stage: asdict(scores[stage]) | {"counts": counts(predictions[stage])} for stage in scores},
        "cost": asdict(cost),
        "training": training,
        "seconds": journal.seconds | {"total": round(sum(journal.seconds.values()), 2)},
        "settings": journal.settings,
        "arguments": asdict(arguments),
        "environment": environment(),
    }


def counts(predictions: list[Prediction]) -> dict[str, int]:
    """How many examples there are, and how many were not seen or answered whole."""
    return {
        "examples": len(predictions),
        "truncated_prompts": sum(prediction.prompt_truncated for prediction in predictions),
        "outputs_cut_off": sum(prediction.output_cut_off for prediction in predictions),
        "empty_outputs": sum(not prediction.output for prediction in predictions),
    }


def environment() -> dict[str, Any]:
    """Versions, commit and device of this run."""
    import torch

    return {
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or platform.machine(),
        "commit": _git("rev-parse", "HEAD"),
        "uncommitted_changes": bool(_git("status", "--porcelain", "--untracked-files=no")),
    }


def _git(*words: str) -> str | None:
    folder = Path(__file__).parent
    try:
        done = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None
