"""Judge the predictions of experiments: verdicts in a file, resumably, and their share of yes and mean grade in a record."""

from __future__ import annotations

import logging
from collections import Counter
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from compositional.core.errors import UserError
from compositional.core.files import hash_of_files
from compositional.core.logs import log_file, log_to_file, quieten_libraries
from compositional.core.machine import environment
from compositional.core.recorded import (
    changes,
    has_changed,
    is_unchanged,
    read_recorded,
    read_whole_record,
    refusal,
    write_record,
)
from compositional.core.resumable import chunks, complete_rows, has_rows, partial_of
from compositional.core.tables import percent
from compositional.core.workspace import Workspace
from compositional.data import name_of_input
from compositional.judge.plan import SPLITS, JudgeArguments, JudgedExperiment, JudgePlan, judge_flag_if_left_out
from compositional.judge.question import Judge, Request, Verdict, prompt_hash, verdict_of
from compositional.models.model import POCKET, Model
from compositional.prediction import LLAMA_CPP, TRANSFORMERS
from compositional.prediction.predict import read_predictions
from compositional.prediction.vllm_backend import Engines
from compositional.prediction.vllm_engine import EngineSettings, check_vllm, usable_gpus
from compositional.scoring.bootstrap import bootstrap_interval

logger = logging.getLogger(__name__)


def check_judgeable(plan: JudgePlan, experiment: JudgedExperiment, judge: Judge) -> None:
    """Raise UserError when verdicts exist that were given under other settings."""
    if plan.arguments.overwrite:
        return
    path = plan.workspace.verdicts(experiment.name, plan.arguments.stage, plan.judge_name)
    if has_rows(path) and not _settings_file(path).is_file():
        raise UserError(f"{path} has verdicts, and {_settings_file(path).name} is missing: --overwrite judges anew")
    earlier = read_recorded(_settings_file(path)) if has_rows(path) else {}
    changed = changes(earlier, _settings(plan, experiment, judge), judge_flag_if_left_out)
    fault = f"{experiment.name} was judged by {plan.judge_name} under other settings"
    if mistakes := refusal(fault, changed, "--overwrite judges it anew"):
        raise UserError(*mistakes)
    check_verdicts_unchanged(plan.workspace, experiment.name, plan.arguments.stage, plan.judge_name)


def check_verdicts_unchanged(workspace: Workspace, experiment: str, stage: str, judge: str) -> None:
    """Raise UserError when a judge's verdicts on a stage are there, and not as its record says."""
    path, record = workspace.verdicts(experiment, stage, judge), workspace.judgement(experiment, judge)
    recorded = read_judgement(record)["stages"].get(stage, {}) if record.is_file() else {}
    if path.is_file() and not is_unchanged(path, recorded.get("hash_of_verdicts")):
        raise UserError(f"{has_changed(path)}, by llm_judge_eval.py --overwrite")


def settings_of_verdicts(workspace: Workspace, experiment: str, stage: str, judge: str) -> dict[str, Any]:
    """The settings that a judge's verdicts on a stage were given under.

    Raises UserError when the record of them is missing, which every version has written, or names other predictions than there are.
    """
    path, predictions = workspace.verdicts(experiment, stage, judge), workspace.predictions(experiment, stage)
    again = f"judge {experiment} again, by llm_judge_eval.py --overwrite"
    if not _settings_file(path).is_file():
        raise UserError(f"{path} has verdicts, and {_settings_file(path).name} is missing: {again}")
    settings = read_recorded(_settings_file(path), hash_of_predictions=str)
    if predictions.is_file() and not is_unchanged(predictions, settings.get("hash_of_predictions")):
        raise UserError(f"{path} has verdicts on other predictions than there are now: {again}")
    return settings


def judge_experiment(plan: JudgePlan, experiment: JudgedExperiment, judge: Judge) -> dict[str, Any]:
    """Judge one experiment's predictions and write its record; returns the record."""
    name, stage = experiment.name, plan.arguments.stage
    path = plan.workspace.verdicts(name, stage, plan.judge_name)
    if plan.arguments.overwrite:
        _throw_away(plan, name, path)
    settings = _settings(plan, experiment, judge)
    write_record(_settings_file(path), settings)
    predictions = {one.id: one for one in read_predictions(plan.workspace.predictions(name, stage))}

    # Examples that differ in their references only are one question.
    sharing: dict[tuple[str, str], list[str]] = {}
    for id, one in predictions.items():
        sharing.setdefault((one.input, one.output), []).append(id)

    def verdicts_of(ids: list[str]) -> list[dict[str, Any]]:
        questions = list(dict.fromkeys((predictions[id].input, predictions[id].output) for id in ids))
        requests = [Request(experiment.dataset, SPLITS[stage], input, output) for input, output in questions]
        replies = dict(zip(questions, judge.replies(requests), strict=True))
        return [asdict(verdict_of(id, replies[predictions[id].input, predictions[id].output])) for id in ids]

    def unjudged(done: set[str]) -> list[list[str]]:
        missing = [ids for ids in sharing.values() if not done.issuperset(ids)]
        return [[id for ids in batch for id in ids] for batch in chunks(missing, plan.arguments.batch_size)]

    rows = complete_rows(path, list(predictions), unjudged, judge.start, verdicts_of, f"{name}: judge")
    inputs = {id: name_of_input(one.input) for id, one in predictions.items()}
    return _record(plan, experiment, settings, [Verdict(**row) for row in rows], inputs)


def read_judgement(path: Path) -> dict[str, Any]:
    """A judge's record of an experiment; raises UserError when parts of it are missing or have another form."""
    return read_whole_record(path, stages={"*": {"hash_of_verdicts?": str, "counts": {"examples": int, "judged": int}}})


def _throw_away(plan: JudgePlan, name: str, verdicts: Path) -> None:
    """Remove the verdicts of an earlier run, and what the record says of them."""
    for old in (verdicts, partial_of(verdicts)):
        old.unlink(missing_ok=True)
    record_path = plan.workspace.judgement(name, plan.judge_name)
    if record_path.is_file():
        record = read_judgement(record_path)
        record["stages"].pop(plan.arguments.stage, None)
        write_record(record_path, record)


def show_judgement(plan: JudgePlan, experiment: str, record: dict[str, Any]) -> None:
    """Show a record in a line or two."""
    stage = plan.arguments.stage
    found = record["stages"][stage]
    counts = found["counts"]
    share = f"yes {percent(found['yes'])} %" if found["yes"] else "no verdict at all"
    logger.info("%s, %s, %d of %d examples judged: %s", experiment, stage, counts["judged"], counts["examples"], share)
    if found["grade"]:
        logger.info("%s, %s: grade %s %%", experiment, stage, percent(found["grade"]))
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


def _record(
    plan: JudgePlan, experiment: JudgedExperiment, settings: dict[str, Any], verdicts: list[Verdict], inputs: dict[str, str]
) -> dict[str, Any]:
    """Write the judge's record of an experiment, the last thing; other stages of it are kept. `inputs` has their names by id."""
    arguments, path = plan.arguments, plan.workspace.judgement(experiment.name, plan.judge_name)
    judged = {verdict.id: float(verdict.verdict == "yes") for verdict in verdicts if verdict.verdict}
    grades = {verdict.id: verdict.grade for verdict in verdicts if verdict.grade is not None}
    found = {
        "yes": _mean(judged, inputs, arguments),
        "grade": _mean(grades, inputs, arguments),
        "counts": {
            "examples": len(verdicts),
            "judged": len(judged),
            "yes": int(sum(judged.values())),
            "failures": dict(Counter(verdict.failure for verdict in verdicts if not verdict.verdict)),
        },
        "settings": settings,
        "hash_of_verdicts": hash_of_files([plan.workspace.verdicts(experiment.name, arguments.stage, plan.judge_name)]),
        "arguments": asdict(arguments),
        "environment": environment(),
    }
    record = read_judgement(path) if path.is_file() else {"experiment": experiment.name, "judge": plan.judge_name, "stages": {}}
    record["stages"][arguments.stage] = found
    write_record(path, record)
    return record


def _mean(values: dict[str, float], inputs: dict[str, str], arguments: JudgeArguments) -> dict[str, float] | None:
    """The mean of values by id with its interval over the inputs; None where there are none."""
    if not values:
        return None
    of_inputs = [inputs[id] for id in values]
    return asdict(bootstrap_interval(list(values.values()), of_inputs, arguments.bootstrap_resamples, arguments.seed))


LONGEST_QUESTION = 8192  # tokens, with the reply


def judge_all(plan: JudgePlan, engines: Engines | None = None) -> dict[str, dict[str, Any]]:
    """Judge all experiments of a call, with one judge; returns their records.

    Raises UserError for what can't be judged, before the first request; and after the last one for what the call has left out.
    """
    quieten_libraries()
    records = {}
    with ExitStack() as stack:
        shared = stack.enter_context(Engines()) if engines is None else engines
        for experiment in plan.experiments:
            stack.enter_context(plan.workspace.locked(judgement=f"{experiment.name}.{plan.judge_name}"))
            stack.enter_context(plan.workspace.locked(experiment=experiment.name, shared=True))
        judge = make_judge(plan, shared)
        _check_all(plan, judge)
        for experiment in plan.experiments:
            with log_to_file(plan.workspace.logs(experiment.name)):
                logger.debug("judging with %s", judge.identity)
                records[experiment.name] = judge_experiment(plan, experiment, judge)
            show_judgement(plan, experiment.name, records[experiment.name])
    if plan.missing:
        raise UserError(*plan.missing)
    return records


def _check_all(plan: JudgePlan, judge: Judge) -> None:
    """Before the first request: hours may lie between it and the last."""
    mistakes: list[str] = []
    for experiment in plan.experiments:
        try:
            check_judgeable(plan, experiment, judge)
        except UserError as error:
            mistakes += error.mistakes
    if mistakes:
        raise UserError(*mistakes)


def make_judge(plan: JudgePlan, engines: Engines) -> Judge:
    """The judge that a call asks for; a model in vLLM starts when it is asked for the first time."""
    arguments = plan.arguments
    name = arguments.judge_model_name_or_path
    if name == POCKET:
        from compositional.judge.local_judges import RuleJudge

        return RuleJudge()
    if arguments.judge_url:
        from compositional.judge.url_judge import UrlJudge

        return UrlJudge(arguments.judge_url, name)
    from compositional.judge.local_judges import LlamaCppJudge, TransformersJudge, VllmJudge

    model, log_path = plan.model, log_file(plan.workspace.logs(plan.experiments[0].name))
    longest = arguments.max_model_len or LONGEST_QUESTION
    longest = min(longest, model.longest_sequence or longest)
    if arguments.judge_backend == LLAMA_CPP:
        return LlamaCppJudge(model, _own_dtype(model, arguments.judge_dtype), longest, log_path.with_name("llama_cpp.log"))
    if arguments.judge_backend == TRANSFORMERS:
        return TransformersJudge(model, _own_dtype(model, arguments.judge_dtype), longest)
    tensor_parallel_size = arguments.tensor_parallel_size or usable_gpus(model)
    check_vllm(model, tensor_parallel_size)
    settings = EngineSettings(
        dtype=arguments.judge_dtype,
        max_model_len=longest,
        gpu_memory_utilization=arguments.gpu_memory_utilization,
        tensor_parallel_size=tensor_parallel_size,
    )
    return VllmJudge(model, settings, engines, log_path)


def _own_dtype(model: Model, requested: str) -> str:
    """The requested precision; "auto" is the one that the model is stored in."""
    own = model.config.get_text_config().dtype
    return requested if requested != "auto" else str(own or "float32").removeprefix("torch.")
