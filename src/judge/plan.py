"""What one call of `llm_judge_eval.py` will do, checked before any model is loaded: all mistakes reported together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from src.data import Dataset, Locations, find_dataset
from src.errors import UserError, nearest
from src.files import read_json
from src.judge.arguments import JudgeArguments
from src.models import POCKET, BaseModel
from src.resume import SETTINGS_FILE
from src.workspace import Workspace

_FOR_VLLM_HERE = ("judge_dtype", "max_model_len", "gpu_memory_utilization", "tensor_parallel_size")
SPLITS = {"valid": "validation", "test": "test"}


@dataclass(frozen=True)
class JudgedExperiment:
    """An experiment with stored predictions, and the data set that they answer."""

    name: str
    dataset: Dataset


@dataclass(frozen=True)
class JudgePlan:
    """A call that holds together."""

    arguments: JudgeArguments
    workspace: Workspace
    experiments: list[JudgedExperiment]

    @property
    def needs_hub(self) -> bool:
        """Whether the judge model may have to come from the hub."""
        return self.arguments.judge_url is None and not BaseModel(self.arguments.judge_model_name_or_path).is_local

    @property
    def judge_name(self) -> str:
        """The judge's name in file names."""
        return self.arguments.judge_name


def make_judge_plan(arguments: JudgeArguments, found_while_parsing: Sequence[str] = ()) -> JudgePlan:
    """Check a call; raises UserError with one line per mistake."""
    mistakes = [*found_while_parsing, *_wrong_values(arguments)]
    workspace = Workspace(Path(arguments.workspace))
    experiments = []
    for name in dict.fromkeys(arguments.experiment_name):
        try:
            experiments.append(_experiment(name, arguments, workspace))
        except UserError as error:
            mistakes += error.mistakes
    if mistakes:
        raise UserError(*dict.fromkeys(mistakes))
    return JudgePlan(arguments, workspace, experiments)


def _wrong_values(arguments: JudgeArguments) -> list[str]:
    model, url = arguments.judge_model_name_or_path, arguments.judge_url
    mistakes = [] if arguments.experiment_name else ["--experiment_name is missing"]
    for name in ("batch_size", "max_model_len", "bootstrap_resamples", "tensor_parallel_size"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            mistakes.append(f"--{name} {value}: must be at least 1")
    if not 0 < arguments.gpu_memory_utilization <= 1:
        mistakes.append(f"--gpu_memory_utilization {arguments.gpu_memory_utilization}: must be above 0 and at most 1")
    if not 0 <= arguments.seed < 2**32:
        mistakes.append(f"--seed {arguments.seed}: must be at least 0 and below 2^32")
    if url is not None and not _is_url(url):
        mistakes.append(f"--judge_url {url}: expected a URL such as http://localhost:8000/v1")
    if url is not None and model == POCKET:
        mistakes.append("--judge_url contradicts --judge_model_name_or_path pocket, which is no model")
    if url is not None or model == POCKET:
        given = [name for name in _FOR_VLLM_HERE if getattr(arguments, name) != getattr(JudgeArguments(), name)]
        where = "behind --judge_url" if url is not None else "in place of a model"
        mistakes += [f"--{name} is for a model in vLLM here: it means nothing to a judge {where}" for name in given]
        return mistakes
    try:
        BaseModel(model).check_exists()
    except UserError as error:
        mistakes += [mistake.replace("--model_name_or_path", "--judge_model_name_or_path") for mistake in error.mistakes]
    return mistakes


def _is_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a broken port or address
        return False


def _experiment(name: str, arguments: JudgeArguments, workspace: Workspace) -> JudgedExperiment:
    if name.startswith(".") or "/" in name or "\\" in name or not name:
        raise UserError(f"--experiment_name {name}: a name is needed, not a path")
    folder = workspace.predictions_folder(name)
    if not (folder / SETTINGS_FILE).is_file():
        stored = [path.parent.name for path in folder.parent.glob(f"*/{SETTINGS_FILE}")]
        hint = nearest(name, stored) if stored else "run_experiment.py makes them"
        raise UserError(f"experiment {name} has no predictions in {folder.parent}: {hint}")
    if not workspace.predictions(name, arguments.stage).is_file():
        do = {"valid": "--do_valid", "test": "--do_predict"}[arguments.stage]
        raise UserError(f"experiment {name} has no (whole) {arguments.stage} predictions: run it with {do}")
    settings = read_json(folder / SETTINGS_FILE)
    dataset = find_dataset(settings["secondary_task_dataset"] or settings["dataset"], Locations(workspace.root / "data", raw=None))
    if arguments.judge_model_name_or_path == POCKET and not dataset.name.startswith("pocket_"):
        raise UserError(f"experiment {name}: the judge pocket knows Pocket's sets only, not {dataset.name}; name a judge model")
    return JudgedExperiment(name, dataset)
