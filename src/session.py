"""Opening an experiment: may it run, has it run, and what does it run on."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from typing import Any

from src.adapters.peft_folder import hash_of_adapter
from src.errors import UserError
from src.experiment import Experiment
from src.files import read_json
from src.loading import ExperimentData
from src.logs import log_to_file, quieten_libraries
from src.plan import Plan, recorded_settings
from src.preflight import check_before_start
from src.processes import is_main_process
from src.records import RECORD_FILE, Journal, check_same_settings

logger = logging.getLogger(__name__)


@contextmanager
def open_experiment(plan: Plan, data: ExperimentData) -> Iterator[Experiment]:
    """Hold an experiment's locks, folders and log; raises UserError when it runs already or was begun with other settings."""
    quieten_libraries()
    settings = _settings(plan, data)
    name, written = plan.arguments.experiment_name, plan.written_adapter
    _check_stored_model_is_ours(plan, settings)
    check_before_start(plan, data)
    journal_path = plan.workspace.output(name) / "journal.json"
    if journal_path.is_file() and not plan.arguments.overwrite:
        check_same_settings(name, read_json(journal_path)["settings"], settings)
    locks = plan.workspace.locked(name, *([written] if written else [])) if is_main_process() else nullcontext()
    with locks:
        if plan.arguments.overwrite and is_main_process():
            _throw_away(plan)
        with log_to_file(plan.workspace.logs(name)):
            logger.debug("settings: %s", json.dumps(asdict(plan.arguments), ensure_ascii=False))
            yield Experiment(plan, data, settings, Journal.open(journal_path, settings))


def is_done(plan: Plan, data: ExperimentData) -> bool:
    """Whether an earlier run of this very command has written its results."""
    path = plan.workspace.results(plan.arguments.experiment_name)
    if not path.is_file() or plan.arguments.overwrite:
        return False
    results = read_json(path)
    same = {**results["settings"], **_settings(plan, data)} == results["settings"]
    made = not plan.written_adapter or (plan.workspace.stored_model(plan.written_adapter) / RECORD_FILE).is_file()
    return same and made and set(data.stages) <= set(results["stages"])


def _settings(plan: Plan, data: ExperimentData) -> dict[str, Any]:
    """Recorded settings, and hashes of everything that goes in."""
    adapters = plan.adapters
    hashes = {f"hash_of_adapter_{name}": hash_of_adapter(plan.workspace.stored_model(name)) for name in adapters}
    hashes |= {f"hash_of_data_{name}": value for name, value in data.hashes().items()}
    return recorded_settings(plan) | {"hash_of_base_model": plan.base.identity()} | hashes


def _check_stored_model_is_ours(plan: Plan, settings: dict[str, Any]) -> None:
    """Raise UserError when the adapter to be written exists and is another experiment's."""
    if not plan.written_adapter:
        return
    folder = plan.workspace.stored_model(plan.written_adapter)
    if not folder.exists():
        return
    if (folder / RECORD_FILE).is_file():
        record = read_json(folder / RECORD_FILE)
        if record["experiment"] != plan.arguments.experiment_name:
            raise UserError(
                f"adapter {folder.name} was made by experiment {record['experiment']}: choose another --stored_model_name"
            )
        if not plan.arguments.overwrite:
            check_same_settings(record["experiment"], record["settings"], settings)
    else:
        raise UserError(f"{folder} exists and was not made by this experiment: choose another name")


def _throw_away(plan: Plan) -> None:
    """Remove what an earlier run of the experiment made; its lock stays."""
    name, workspace = plan.arguments.experiment_name, plan.workspace
    folders = [workspace.predictions(name, "").parent, workspace.logs(name)]
    if plan.written_adapter:
        folders += [workspace.stored_model(plan.written_adapter), workspace.training(plan.written_adapter)]
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
    for path in workspace.output(name).glob("*.json"):
        path.unlink()
