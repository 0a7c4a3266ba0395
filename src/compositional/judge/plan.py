"""The flags of `llm_judge_eval.py`, and what a call of it will do, checked before any model is loaded."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from compositional.core.errors import UserError, nearest
from compositional.core.flags import COUNT, SEED, SHARE, build_parser, default_of, fault_of_name, flag, parse, wrong_values
from compositional.core.recorded import NO_FLAG, read_whole_record
from compositional.core.servers import is_url
from compositional.core.workspace import Workspace
from compositional.data import Dataset, Locations, find_dataset
from compositional.experiment.resume import SETTINGS_FILE
from compositional.formats.gguf import QUANTIZED
from compositional.models.model import POCKET, Model
from compositional.prediction import LLAMA_CPP, TRANSFORMERS, VLLM


@dataclass
class JudgeArguments:
    """Which predictions are judged, by whom, and how."""

    experiment_name: list[str] = flag((), "what", "experiments whose stored predictions are judged (required)", repeatable=True)
    stage: str = flag("test", "what", "split that was predicted", choices=("valid", "test"))
    overwrite: bool = flag(False, "what", "delete the verdicts of an earlier run of this judge, and judge again")
    skip_missing: bool = flag(
        False, "what", "judge the experiments that have predictions; name the others at the end, with exit code 2, not before"
    )

    judge_model_name_or_path: str = flag(
        "meta-llama/Llama-3.1-70B-Instruct",
        "judge",
        "judge model: hub id, folder, or 'pocket' for Pocket's grammar",
        "inferred",
        path="folder",
    )
    judge_url: str | None = flag(
        None, "judge", "OpenAI-compatible URL of a server that has the model, such as http://localhost:8000/v1; default: vLLM, here"
    )
    judge_backend: str = flag(
        VLLM, "judge", "library that runs the judge model here; llama_cpp runs on the CPU", choices=(VLLM, TRANSFORMERS, LLAMA_CPP)
    )
    judge_dtype: str = flag(
        "auto",
        "judge",
        "precision of the judge model; auto: its own; q8_0 and q4_1 are llama_cpp's",
        choices=("auto", "float32", "bfloat16", "float16", *QUANTIZED),
    )
    max_model_len: int | None = flag(
        None,
        "judge",
        "tokens of a question to the judge at most; longer ones count as failures; default: 8192, or what the model takes",
        range=COUNT,
    )

    bootstrap_resamples: int = flag(1000, "scoring", "bootstrap resamples behind the 95 %% interval", range=COUNT)
    seed: int = flag(0, "scoring", "seed of the resampling", range=SEED)

    batch_size: int = flag(64, "machine", "outputs judged per batch, after each of which a run can resume", range=COUNT)
    gpu_memory_utilization: float = flag(0.9, "machine", "share of each GPU's memory that vLLM takes", range=SHARE)
    tensor_parallel_size: int | None = flag(
        None,
        "machine",
        "GPUs that vLLM spreads the judge over; default: all visible ones that its heads divide by",
        range=COUNT,
    )
    workspace: str = flag(".", "machine", "folder that holds predictions and output")

    @property
    def judge_name(self) -> str:
        """The judge's name in file names."""
        name = self.judge_model_name_or_path
        name = Path(name).resolve().name if Path(name).is_dir() else name
        return re.sub(r"[^\w.-]", "_", name.replace("/", "--"))


def judge_flag_if_left_out(key: str) -> Any:
    """What a setting of verdicts counts as that an older record lacks; NO_FLAG for what is no flag, or depends on the model."""
    declared = {one.name: default_of(one) for one in fields(JudgeArguments)}
    default = declared.get(key, declared.get(f"judge_{key}"))
    return NO_FLAG if default is None else default


def parse_judge_arguments(argv: list[str]) -> tuple[JudgeArguments, list[str]]:
    """Parse a command line of `llm_judge_eval.py`; see `flags.parse`."""
    description = "Judge the stored predictions of experiments: is each output what was asked for, yes or no?"
    return parse(build_parser(JudgeArguments, "llm_judge_eval.py", description), JudgeArguments, argv)


JUDGE_MODEL_FLAG = "--judge_model_name_or_path"
_FOR_VLLM = ("gpu_memory_utilization", "tensor_parallel_size")
_FOR_A_MODEL_HERE = ("judge_backend", "judge_dtype", "max_model_len", *_FOR_VLLM)
_LONGEST_JUDGE_NAME = 200
SPLITS = {"valid": "validation", "test": "test"}


@dataclass(frozen=True)
class JudgedExperiment:
    """An experiment with stored predictions, and the data set that they answer."""

    name: str
    dataset: Dataset


@dataclass(frozen=True)
class JudgePlan:
    """A call that holds together. `missing`: for each experiment that is left out, a line that says what it lacks."""

    arguments: JudgeArguments
    workspace: Workspace
    experiments: list[JudgedExperiment]
    missing: list[str]

    @cached_property
    def model(self) -> Model:
        """The judge model, as its flag names it; a judge behind a URL, or Pocket's grammar, does not load it."""
        return Model(self.arguments.judge_model_name_or_path, JUDGE_MODEL_FLAG)

    @property
    def needs_hub(self) -> bool:
        """Whether the judge model may have to come from the hub."""
        return self.arguments.judge_url is None and not self.model.is_local

    @property
    def judge_name(self) -> str:
        """The judge's name in file names."""
        return self.arguments.judge_name


def make_judge_plan(arguments: JudgeArguments, parsing_mistakes: Sequence[str] = ()) -> JudgePlan:
    """Check a call; raises UserError with one line per mistake."""
    mistakes = [*parsing_mistakes, *_wrong_values(arguments)]
    workspace = Workspace(Path(arguments.workspace))
    experiments: list[JudgedExperiment] = []
    missing: list[str] = []
    for name in dict.fromkeys(arguments.experiment_name):
        try:
            experiments.append(_experiment(name, arguments, workspace))
            workspace.check_writable(workspace.predictions_folder(name), workspace.output(name), workspace.logs(name))
        except _NoPredictions as error:
            missing += error.mistakes
        except UserError as error:
            mistakes += error.mistakes
    if mistakes or not (arguments.skip_missing and experiments):
        mistakes += missing
    if mistakes:
        raise UserError(*dict.fromkeys(mistakes))
    return JudgePlan(arguments, workspace, experiments, missing)


def _wrong_values(arguments: JudgeArguments) -> list[str]:
    model, url = arguments.judge_model_name_or_path, arguments.judge_url
    mistakes = [] if arguments.experiment_name else ["--experiment_name is missing"]
    mistakes += wrong_values(arguments)
    if len(arguments.judge_name.encode()) > _LONGEST_JUDGE_NAME:
        mistakes.append(f"{JUDGE_MODEL_FLAG} {model}: files are named after it, so it has at most {_LONGEST_JUDGE_NAME} bytes")
    if url is not None and not is_url(url):
        mistakes.append(f"--judge_url {url}: expected a URL such as http://localhost:8000/v1")
    if url is not None and model == POCKET:
        mistakes.append("--judge_url contradicts --judge_model_name_or_path pocket, which is no model")
    if url is not None or model == POCKET:
        where = "behind --judge_url" if url is not None else "in place of a model"
        given = _given(arguments, _FOR_A_MODEL_HERE)
        mistakes += [f"--{name} is for a model that runs here: it means nothing to a judge {where}" for name in given]
        return mistakes
    if arguments.judge_backend != VLLM:
        given = _given(arguments, _FOR_VLLM)
        mistakes += [f"--{name} is for vLLM: it means nothing to --judge_backend {arguments.judge_backend}" for name in given]
    if arguments.judge_dtype in QUANTIZED and arguments.judge_backend != LLAMA_CPP:
        mistakes.append(f"--judge_dtype {arguments.judge_dtype} needs --judge_backend {LLAMA_CPP}")
    try:
        Model(model, JUDGE_MODEL_FLAG).check_exists()
    except UserError as error:
        mistakes += error.mistakes
    return mistakes


def _given(arguments: JudgeArguments, names: tuple[str, ...]) -> list[str]:
    """Those of the flags that have another value than their default."""
    return [name for name in names if getattr(arguments, name) != getattr(JudgeArguments(), name)]


class _NoPredictions(UserError):
    """An experiment has nothing that could be judged."""


def _experiment(name: str, arguments: JudgeArguments, workspace: Workspace) -> JudgedExperiment:
    if not name or (fault := fault_of_name(name)):
        raise UserError(f"--experiment_name {name}: {fault if name else 'a name is needed'}")
    folder = workspace.predictions_folder(name)
    if not (folder / SETTINGS_FILE).is_file():
        stored = [path.parent.name for path in folder.parent.glob(f"*/{SETTINGS_FILE}")]
        hint = nearest(name, stored) if stored else "run_experiment.py makes them"
        raise _NoPredictions(f"experiment {name} has no predictions in {folder.parent}: {hint}")
    if not workspace.predictions(name, arguments.stage).is_file():
        do = {"valid": "--do_valid", "test": "--do_predict"}[arguments.stage]
        raise _NoPredictions(f"experiment {name} has no (whole) {arguments.stage} predictions: run it with {do}")
    settings = read_whole_record(folder / SETTINGS_FILE, dataset=str)
    dataset = find_dataset(
        settings.get("secondary_task_dataset") or settings["dataset"], Locations(workspace.root / "data", raw=None)
    )
    if arguments.judge_model_name_or_path == POCKET and dataset.benchmark != "pocket":
        raise UserError(f"experiment {name}: the judge pocket knows Pocket's sets only, not {dataset.name}; name a judge model")
    return JudgedExperiment(name, dataset)
