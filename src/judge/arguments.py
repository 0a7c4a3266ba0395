"""The flags of `llm_judge_eval.py`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from src.flags import build_parser, flag, parse


@dataclass
class JudgeArguments:
    """Which predictions are judged, by whom, and how."""

    experiment_name: list[str] = flag((), "what", "experiments whose stored predictions are judged (required)", repeatable=True)
    stage: str = flag("test", "what", "split that was predicted", choices=("valid", "test"))
    overwrite: bool = flag(False, "what", "throw away the verdicts of an earlier run of this judge")

    judge_model_name_or_path: str = flag(
        "meta-llama/Llama-3.1-70B-Instruct", "judge", "judge model: hub id, folder, or 'pocket' for Pocket's grammar", "inferred"
    )
    judge_url: str | None = flag(
        None, "judge", "OpenAI-compatible URL of a server that has the model, such as http://localhost:8000/v1; default: vLLM, here"
    )
    judge_dtype: str = flag(
        "auto", "judge", "precision of the judge model; auto: its own", choices=("auto", "float32", "bfloat16", "float16")
    )
    max_model_len: int | None = flag(
        None, "judge", "tokens of a question to the judge at most; longer ones count as failures; default: 8192, or what it takes"
    )

    bootstrap_resamples: int = flag(1000, "scoring", "bootstrap resamples behind the 95 %% interval")
    seed: int = flag(0, "scoring", "seed of the resampling")

    batch_size: int = flag(64, "machine", "outputs judged at a time, between which a run can resume")
    gpu_memory_utilization: float = flag(0.9, "machine", "share of each GPU's memory that vLLM takes")
    tensor_parallel_size: int | None = flag(
        None, "machine", "GPUs that vLLM spreads the judge over; default: all visible ones that its heads divide by"
    )
    workspace: str = flag(".", "machine", "folder that holds predictions and output")

    @property
    def judge_name(self) -> str:
        """The judge's name in file names."""
        name = self.judge_model_name_or_path
        name = Path(name).resolve().name if Path(name).is_dir() else name
        return re.sub(r"[^\w.-]", "_", name.replace("/", "--"))


def parse_judge_arguments(argv: list[str]) -> tuple[JudgeArguments, list[str]]:
    """Parse a command line of `llm_judge_eval.py`; see `flags.parse`."""
    description = "Judge the stored predictions of experiments: is each output what was asked for, yes or no?"
    return parse(build_parser(JudgeArguments, "llm_judge_eval.py", description), JudgeArguments, argv)
