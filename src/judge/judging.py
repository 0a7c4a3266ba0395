"""Judge the predictions of an experiment: verdicts in a file, resumably, and their share of yes in a record."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from src.errors import UserError
from src.files import hash_of_files, read_json, write_json
from src.judge import Judge, Request, Verdict, verdict_of
from src.judge.plan import SPLITS, JudgedExperiment, JudgePlan
from src.judge.prompts import prompt_hash
from src.prediction.predict import read_predictions
from src.records import environment
from src.resumable import chunks, complete_rows, has_rows, partial_of
from src.scoring.bootstrap import bootstrap_interval
from src.tables import percent

logger = logging.getLogger(__name__)


def check_judgeable(plan: JudgePlan, experiment: JudgedExperiment, judge: Judge) -> None:
    """Raise UserError when verdicts exist that were given under other settings."""
    if plan.arguments.overwrite:
        return
    path = plan.workspace.verdicts(experiment.name, plan.arguments.stage, plan.judge_name)
    if has_rows(path) and not _settings_file(path).is_file():
        raise UserError(f"{path} has verdicts, and {_settings_file(path).name} is missing: --overwrite judges anew")
    earlier = read_json(_settings_file(path)) if has_rows(path) else {}
    settings = _settings(plan, experiment, judge)
    differing = [key for key in earlier.keys() & settings.keys() if earlier[key] != settings[key]]
    if differing:
        listed = "; ".join(f"{key} was {earlier[key]}, is {settings[key]}" for key in sorted(differing))
        raise UserError(
            f"{experiment.name} was judged by {plan.judge_name} under other settings ({listed}): --overwrite judges it anew"
        )


def judge_experiment(plan: JudgePlan, experiment: JudgedExperiment, judge: Judge) -> dict[str, Any]:
    """Judge one experiment's predictions and write its record; returns the record."""
    name, stage = experiment.name, plan.arguments.stage
    path = plan.workspace.verdicts(name, stage, plan.judge_name)
    if plan.arguments.overwrite:
        _throw_away(plan, name, path)
    settings = _settings(plan, experiment, judge)
    write_json(_settings_file(path), settings)
    predictions = {one.id: one for one in read_predictions(plan.workspace.predictions(name, stage))}

    def verdicts_of(ids: list[str]) -> list[dict[str, Any]]:
        requests = [Request(experiment.dataset, SPLITS[stage], predictions[id].input, predictions[id].output) for id in ids]
        return [asdict(verdict_of(id, reply)) for id, reply in zip(ids, judge.replies(requests), strict=True)]

    def unjudged(done: set[str]) -> list[list[str]]:
        return chunks([id for id in predictions if id not in done], plan.arguments.batch_size)

    rows = complete_rows(path, list(predictions), unjudged, judge.start, verdicts_of, f"{name}: judge")
    return _record(plan, experiment, settings, [Verdict(**row) for row in rows])


def _throw_away(plan: JudgePlan, name: str, verdicts: Path) -> None:
    """Remove the verdicts of an earlier run, and what the record says of them."""
    for old in (verdicts, partial_of(verdicts)):
        old.unlink(missing_ok=True)
    record_path = plan.workspace.judgement(name, plan.judge_name)
    if record_path.is_file():
        record = read_json(record_path)
        record["stages"].pop(plan.arguments.stage, None)
        write_json(record_path, record)


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


def _settings_file(verdicts: Path) -> Path:
    return verdicts.with_suffix(".settings.json")


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
