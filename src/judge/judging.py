"""Judge the predictions of an experiment: verdicts in a file, resumably, and their share of yes in a record."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import asdict
from typing import Any

from src.errors import UserError
from src.files import hash_of_files, read_json, write_json
from src.judge import Judge, Request, Verdict, verdict_of
from src.judge.plan import SPLITS, JudgedExperiment, JudgePlan
from src.judge.prompts import prompt_hash
from src.prediction.predict import read_predictions
from src.records import environment
from src.resumable import complete_rows
from src.resume import differences
from src.scoring.bootstrap import bootstrap_interval
from src.tables import percent

logger = logging.getLogger(__name__)


def judge_experiment(plan: JudgePlan, experiment: JudgedExperiment, judge: Judge) -> dict[str, Any]:
    """Judge one experiment's predictions and write its record; returns the record.

    Raises UserError when verdicts exist that were given under other settings.
    """
    name, stage = experiment.name, plan.arguments.stage
    path = plan.workspace.verdicts(name, stage, plan.judge_name)
    settings = _settings(plan, experiment, judge)
    _guard(plan, experiment, settings)
    predictions = {one.id: one for one in read_predictions(plan.workspace.predictions(name, stage))}

    def verdicts_of(ids: list[str]) -> list[dict[str, Any]]:
        requests = [Request(experiment.dataset, SPLITS[stage], predictions[id].input, predictions[id].output) for id in ids]
        return [asdict(verdict_of(id, reply)) for id, reply in zip(ids, judge.replies(requests), strict=True)]

    ids, size = list(predictions), plan.arguments.batch_size
    batches = [ids[start : start + size] for start in range(0, len(ids), size)]
    rows = complete_rows(path, ids, batches, verdicts_of, f"{name}: judge")
    return _record(plan, experiment, settings, [Verdict(**row) for row in rows])


def show_judgement(plan: JudgePlan, experiment: str, record: dict[str, Any]) -> None:
    """Show a record in a line or two."""
    stage = plan.arguments.stage
    found = record["stages"][stage]
    counts = found["counts"]
    share = f"yes {percent(found['yes'])} %" if found["yes"] else "no verdict at all"
    logger.info("%s, %s, %d of %d examples judged: %s", experiment, stage, counts["judged"], counts["examples"], share)
    for reason, count in counts["failures"].items():
        logger.info("%s, %s: %d not judged: %s", experiment, stage, count, reason)
    logger.info("%s", plan.workspace.judgement(experiment, plan.judge_name))


def _settings(plan: JudgePlan, experiment: JudgedExperiment, judge: Judge) -> dict[str, Any]:
    """What decides the verdicts."""
    asks_a_model = judge.identity["judge"] != "rule"
    predictions = plan.workspace.predictions(experiment.name, plan.arguments.stage)
    return judge.identity | {
        "prompt_hash": prompt_hash(experiment.dataset.tasks) if asks_a_model else None,
        "hash_of_predictions": hash_of_files([predictions]),
    }


def _guard(plan: JudgePlan, experiment: JudgedExperiment, settings: dict[str, Any]) -> None:
    """Leave the settings beside the verdicts; raises UserError when earlier verdicts were given under others."""
    path = plan.workspace.verdicts(experiment.name, plan.arguments.stage, plan.judge_name)
    settings_path = path.with_suffix(".settings.json")
    if plan.arguments.overwrite:
        for old in (path, path.with_name(path.name + ".partial"), settings_path):
            old.unlink(missing_ok=True)
    earlier = read_json(settings_path) if settings_path.is_file() else {}
    if mistakes := differences(f"judgement of {experiment.name} by {plan.judge_name}", earlier, settings):
        raise UserError(*mistakes)
    write_json(settings_path, settings)


def _record(plan: JudgePlan, experiment: JudgedExperiment, settings: dict[str, Any], verdicts: list[Verdict]) -> dict[str, Any]:
    """Write the judge's record of an experiment, the last thing; other stages of it are kept."""
    arguments, path = plan.arguments, plan.workspace.judgement(experiment.name, plan.judge_name)
    judged = [float(verdict.verdict == "yes") for verdict in verdicts if verdict.verdict]
    found = {
        "yes": asdict(bootstrap_interval(judged, arguments.bootstrap_resamples, arguments.seed)) if judged else None,
        "counts": {
            "examples": len(verdicts),
            "judged": len(judged),
            "yes": int(sum(judged)),
            "failures": dict(Counter(verdict.failure for verdict in verdicts if not verdict.verdict)),
        },
        "settings": settings,
        "arguments": asdict(arguments),
        "environment": environment(),
    }
    record = read_json(path) if path.is_file() else {"experiment": experiment.name, "judge": plan.judge_name, "stages": {}}
    record["stages"][arguments.stage] = found
    write_json(path, record)
    return record
