"""Opening an experiment: its last checks, its locks and its log."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict

from src.checks.preflight import check_before_start
from src.engine.pool import Engines
from src.experiment import Experiment
from src.loading import ExperimentData
from src.logs import log_to_file, quieten_libraries
from src.plan import Plan
from src.processes import is_main_process, wait_for_all_processes
from src.records import Journal
from src.resume import check_resumable, throw_away

logger = logging.getLogger(__name__)


@contextmanager
def open_experiment(plan: Plan, data: ExperimentData, engines: Engines) -> Iterator[Experiment]:
    """Hold an experiment's locks and log; raises UserError, before anything is written, when it can't be run."""
    quieten_libraries()
    check_resumable(plan, data)
    check_before_start(plan, data)
    name, written = plan.arguments.experiment_name, plan.written_adapter
    locks = plan.workspace.locked(experiment=name, stored_model=written) if is_main_process() else nullcontext()
    with locks:
        if plan.arguments.overwrite and is_main_process():
            throw_away(plan)
        wait_for_all_processes()
        with log_to_file(plan.workspace.logs(name)) if is_main_process() else nullcontext():
            logger.debug("arguments: %s", json.dumps(asdict(plan.arguments), ensure_ascii=False))
            yield Experiment(plan, data, Journal.open(plan.workspace.output(name) / "seconds.json"), engines)
