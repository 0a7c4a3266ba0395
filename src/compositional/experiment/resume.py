"""Whether a run may resume from existing artefacts: each one records its settings, which must be those of the run.

Adapters: `experiment.json`; checkpoints of an adapter in training, and predictions: `settings.json` beside them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from compositional.adapters.peft_folder import StoredAdapter
from compositional.calibration import METHODS as CALIBRATION_METHODS
from compositional.core.errors import UserError
from compositional.core.files import hash_of_json, lies_in, remove
from compositional.core.recorded import (
    ARITHMETIC,
    INTERVAL,
    changes,
    has_changed,
    is_unchanged,
    read_recorded,
    read_whole_record,
    refusal,
    unfinished_of_another_version,
    versions_behind,
)
from compositional.experiment.arguments import CALIBRATION, MERGE, fields_of
from compositional.experiment.examples import ExperimentData
from compositional.experiment.plan import Plan
from compositional.prediction.predict import HASHES, SETTINGS_FILE
from compositional.scoring import INTERVALS

ADAPTER_RECORD = "experiment.json"


_SCORES = {
    "headline_metric": str,
    "rouge_tokenizer": str,
    "metrics": {"*": INTERVAL},
    "counts": {"*": int, "examples": int},
    "hash_of_scores?": str,
}


def read_results(path: Path) -> dict[str, Any]:
    """The content of results.json; raises UserError when parts of it are missing or have another form."""
    parts = {"stages": {"*": _SCORES}, "settings": dict, "arguments": dict, "cost?": {"*": int}, "data?": dict}
    return read_whole_record(path, **parts)


def read_settings_of_predictions(folder: Path) -> dict[str, Any]:
    """The record beside predictions; empty if there is none. Raises UserError when it is damaged."""
    return read_recorded(folder / SETTINGS_FILE, **{HASHES: {"*": str}, "made_by": {"*": {"arithmetic?": [int]}}})


def read_adapter_record(folder: Path) -> dict[str, Any]:
    """The record beside an adapter that an experiment has made; raises UserError when parts of it are missing."""
    return read_whole_record(folder / ADAPTER_RECORD, experiment=str, settings=dict, report=dict)


def check_unchanged(adapter: StoredAdapter) -> None:
    """Raise UserError when an adapter that an experiment has made is not as it was stored."""
    if not (adapter.folder / ADAPTER_RECORD).is_file():
        return
    recorded = read_adapter_record(adapter.folder).get("hash_of_adapter")
    if recorded is not None and recorded != adapter.hash:
        fault = f"adapter {adapter.name} has changed since it was stored (its files have another SHA-256)"
        raise UserError(f"{fault}: bring the files of {adapter.folder} back, or make it again with --overwrite")


def settings_of_adapter(plan: Plan, data: ExperimentData) -> dict[str, Any]:
    """The settings that determine the adapter made by this plan; empty when it makes none."""
    groups = {MERGE: ["storage"], CALIBRATION: ["storage"]}.get(plan.method)
    if plan.learns:
        groups = ["calibration", "optimization", "storage"]
        if plan.makes_targets:
            groups.append("prediction")
    if plan.arguments.do_train:
        groups = ["training", "optimization", "storage"]
    if not groups:
        return {}
    settings = _common_settings(plan, groups)
    hashes = [examples.hash for examples in data.training]
    return settings | ({"hash_of_train_data": hashes[0] if len(hashes) == 1 else hash_of_json(hashes)} if hashes else {})


def settings_of_predictions(plan: Plan, data: ExperimentData) -> dict[str, Any]:
    """The settings that determine the predictions of this plan, without the adapter that it makes itself."""
    hashes = {f"hash_of_{stage}_data": examples.hash for stage, examples in data.stages.items()}
    hashes |= {"hash_of_in_context_examples": data.solved.hash} if data.solved else {}
    return _common_settings(plan, ["prediction"]) | hashes


def check_resumable(plan: Plan, data: ExperimentData) -> None:
    """Raise UserError when an artefact to resume from was made with other settings, or by another experiment.

    So it does when the command would delete what it reads.
    """
    name, workspace = plan.arguments.experiment_name, plan.workspace
    mistakes = _inputs_among_the_deleted(plan)
    if plan.written_adapter:
        folder = workspace.stored_model(plan.written_adapter)
        mistakes += _whose_adapter(folder, name)
        if not mistakes and not plan.arguments.overwrite:
            now = settings_of_adapter(plan, data)
            if folder.exists():
                mistakes += differences(plan, f"adapter {folder.name}", read_adapter_record(folder)["settings"], now)
                check_unchanged(StoredAdapter(folder))
            checkpoints = read_recorded(workspace.training(plan.written_adapter) / SETTINGS_FILE)
            mistakes += differences(plan, f"adapter {folder.name}, still in training,", checkpoints, now)
            if checkpoints and not folder.exists():
                mistakes += unfinished_of_another_version(f"adapter {folder.name}", checkpoints)
    if plan.splits and not plan.arguments.overwrite:
        earlier = settings_of_earlier_predictions(workspace.predictions_folder(name))
        mistakes += differences(plan, f"predictions of {name}", earlier, settings_of_predictions(plan, data))
        for rows in sorted(workspace.predictions_folder(name).glob("*.jsonl.partial")):
            made_by = earlier.get("made_by", {}).get(rows.name.removesuffix(".jsonl.partial"), {})
            mistakes += unfinished_of_another_version(str(rows), made_by) if rows.stat().st_size else []
    if mistakes:
        raise UserError(*mistakes)


def settings_of_earlier_predictions(folder: Path) -> dict[str, Any]:
    """The settings of the predictions in a folder; empty when there are no predictions yet."""
    rows = [path for path in folder.glob("*.jsonl*") if path.stat().st_size > 0]
    return read_settings_of_predictions(folder) if rows else {}


def differences(plan: Plan, what: str, recorded: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """The message that lists the settings in which a plan differs from an artefact's; none without differences."""
    changed = changes(_spelled_out(recorded), now, plan.value_if_left_out)
    return refusal(f"{what} exists with other settings", changed, "choose another name, or --overwrite")


def versions_behind_adapters(plan: Plan, others: Sequence[StoredAdapter]) -> list[int]:
    """This version of the arithmetic, and those behind the adapters that the plan reads and `others`, in ascending order."""
    sources = [plan.calibration_source] if plan.calibration_source else []
    records = [adapter.folder / ADAPTER_RECORD for adapter in (*plan.adapters.values(), *sources, *others)]
    return sorted({ARITHMETIC}.union(*(versions_behind(read_adapter_record(path.parent)) for path in records if path.is_file())))


def is_done(plan: Plan, data: ExperimentData) -> bool:
    """Whether an earlier run of the same command has written its results."""
    path = plan.workspace.results(plan.arguments.experiment_name)
    if plan.arguments.overwrite or not path.is_file():
        return False
    results = read_results(path)
    now = settings_of_adapter(plan, data) | settings_of_predictions(plan, data)
    scoring = {name: getattr(plan.arguments, name) for name in fields_of("scoring")}
    made_alike = not changes(_spelled_out(results["settings"]), now, plan.value_if_left_out)
    scored_alike = not changes(results["arguments"], scoring, plan.value_if_left_out) and _has_todays_intervals(results, data)
    made = not plan.written_adapter or (plan.workspace.stored_model(plan.written_adapter) / ADAPTER_RECORD).is_file()
    predicted = all(plan.workspace.predictions(plan.arguments.experiment_name, stage).is_file() for stage in data.stages)
    return made_alike and scored_alike and made and predicted and _has_unchanged_files(plan, results, data)


def _has_unchanged_files(plan: Plan, results: dict[str, Any], data: ExperimentData) -> bool:
    """Whether the stages' scores are as they were recorded; raises UserError for an adapter or predictions that are not."""
    workspace, name = plan.workspace, plan.arguments.experiment_name
    if plan.written_adapter:
        check_unchanged(StoredAdapter(workspace.stored_model(plan.written_adapter)))
    hashes = read_settings_of_predictions(workspace.predictions_folder(name)).get(HASHES, {})
    for stage in data.stages:
        path = workspace.predictions(name, stage)
        if not is_unchanged(path, hashes.get(path.name)):
            raise UserError(has_changed(path))
    return all(
        (found := results["stages"].get(stage)) is not None
        and ((path := workspace.scores(name, stage)).is_file() or "hash_of_scores" not in found)
        and is_unchanged(path, found.get("hash_of_scores"))
        for stage in data.stages
    )


def _has_todays_intervals(results: dict[str, Any], data: ExperimentData) -> bool:
    """Whether the intervals of these stages were made as today; if not, stored predictions are scored again."""
    found = [results["stages"][stage] for stage in data.stages if stage in results["stages"]]
    return all(scores.get("intervals") == INTERVALS for scores in found)


def throw_away(plan: Plan) -> None:
    """Delete everything that earlier runs of the experiment made."""
    for folder in _deleted_folders(plan):
        remove(folder)


def _deleted_folders(plan: Plan) -> list[Path]:
    """The folders that `throw_away` deletes."""
    name, workspace = plan.arguments.experiment_name, plan.workspace
    folders = [workspace.output(name), workspace.predictions_folder(name), workspace.logs(name)]
    if plan.written_adapter:
        folders += [workspace.stored_model(plan.written_adapter), workspace.training(plan.written_adapter)]
    return folders


def _inputs_among_the_deleted(plan: Plan) -> list[str]:
    """A message for each thing that the command reads and --overwrite would delete."""
    if not plan.arguments.overwrite:
        return []
    arguments, base = plan.arguments, plan.base
    inputs = {f"adapter {name}": adapter.folder for name, adapter in plan.adapters.items()}
    inputs |= {f"{base.flag} {base.name}": Path(base.location)} if base.is_local else {}
    inputs |= {f"--raw_data_dir {arguments.raw_data_dir}": Path(arguments.raw_data_dir)} if arguments.raw_data_dir else {}
    if plan.strategy and plan.strategy.hash_of_file:
        inputs[f"--lora_merge_strategy {arguments.lora_merge_strategy}"] = Path(arguments.lora_merge_strategy)
    if plan.calibration_source:
        inputs[f"--stored_calibration {arguments.stored_calibration}"] = plan.calibration_source.folder
    inputs |= {f"@{path}": path for path in plan.files_of_flags}
    texts = {key: value for key, value in plan.trainer_options.items() if isinstance(value, str)}
    inputs |= {f"--trainer {key}={value}": Path(value) for key, value in texts.items() if os.path.isfile(value)}
    for dataset in (plan.main_set, plan.task_set, *plan.merge_sets):
        inputs |= {f"data set {dataset.name}": dataset.folder} if dataset.is_read_from_folder else {}
    return [
        f"{what} lies in {folder}, which --overwrite would delete: move it, or choose another --experiment_name"
        for what, path in inputs.items()
        for folder in _deleted_folders(plan)
        if lies_in(path, folder)
    ]


def _spelled_out(recorded: dict[str, Any]) -> dict[str, Any]:
    """The first version recorded a calibration of the linear merge as a merge strategy, as the paper's commands name it."""
    if recorded.get("lora_merge_strategy") not in CALIBRATION_METHODS:
        return recorded
    return recorded | {"calibrate": recorded["lora_merge_strategy"], "lora_merge_strategy": "linear"}


def _common_settings(plan: Plan, groups: list[str]) -> dict[str, Any]:
    names = fields_of("experiment", "method", *groups)
    settings = json.loads(json.dumps({name: getattr(plan.arguments, name) for name in names}))
    hashes = {f"hash_of_adapter_{name}": adapter.hash for name, adapter in plan.adapters.items()}
    if plan.calibration_source:
        hashes["hash_of_stored_calibration"] = plan.calibration_source.hash_of_calibration
    if plan.strategy and plan.strategy.hash_of_file:
        hashes["hash_of_merge_strategy"] = plan.strategy.hash_of_file
    return settings | {"hash_of_base_model": plan.base.identity} | hashes


def _whose_adapter(folder: Path, experiment: str) -> list[str]:
    if not folder.exists():
        return []
    if not (folder / ADAPTER_RECORD).is_file():
        return [f"{folder} exists and was not made by an experiment: choose another name"]
    maker = read_adapter_record(folder)["experiment"]
    return (
        [] if maker == experiment else [f"adapter {folder.name} was made by experiment {maker}: choose another --stored_model_name"]
    )
