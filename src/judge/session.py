"""A call's judge and its experiments, one after the other."""

from __future__ import annotations

import logging
from contextlib import ExitStack
from typing import Any

from src.engine import EngineSettings
from src.engine.checks import check_vllm, usable_gpus
from src.engine.pool import Engines
from src.errors import UserError
from src.judge import Judge
from src.judge.judging import check_judgeable, judge_experiment, show_judgement
from src.judge.plan import JudgePlan
from src.logs import log_file, log_to_file, quieten_libraries
from src.models import POCKET, BaseModel

logger = logging.getLogger(__name__)

LONGEST_QUESTION = 8192  # tokens, with the reply


def judge_all(plan: JudgePlan, engines: Engines | None = None) -> dict[str, dict[str, Any]]:
    """Judge all experiments of a call, with one judge; returns their records. Raises UserError for what can't be judged."""
    quieten_libraries()
    records = {}
    with ExitStack() as stack:
        shared = stack.enter_context(Engines()) if engines is None else engines
        for experiment in plan.experiments:
            stack.enter_context(plan.workspace.locked(judgement=f"{experiment.name}.{plan.judge_name}"))
        judge = make_judge(plan, shared)
        _check_all(plan, judge)
        for experiment in plan.experiments:
            with log_to_file(plan.workspace.logs(experiment.name)):
                logger.debug("judging with %s", judge.identity)
                records[experiment.name] = judge_experiment(plan, experiment, judge)
            show_judgement(plan, experiment.name, records[experiment.name])
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
        from src.judge.rule_judge import RuleJudge

        return RuleJudge()
    if arguments.judge_url:
        from src.judge.url_judge import UrlJudge

        return UrlJudge(arguments.judge_url, name)
    from src.judge.vllm_judge import VllmJudge

    model = BaseModel(name)
    tensor_parallel_size = arguments.tensor_parallel_size or usable_gpus(model)
    check_vllm(model, tensor_parallel_size)
    longest = arguments.max_model_len or LONGEST_QUESTION
    settings = EngineSettings(
        dtype=arguments.judge_dtype,
        max_model_len=min(longest, model.longest_sequence or longest),
        gpu_memory_utilization=arguments.gpu_memory_utilization,
        tensor_parallel_size=tensor_parallel_size,
    )
    return VllmJudge(model, settings, engines, log_file(plan.workspace.logs(plan.experiments[0].name)))
