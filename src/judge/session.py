"""A call's judge and its experiments, one after the other."""

from __future__ import annotations

import logging
from contextlib import nullcontext
from typing import Any

from src.engine import EngineSettings
from src.engine.pool import Engines
from src.judge import Judge
from src.judge.judging import judge_experiment, show_judgement
from src.judge.plan import JudgePlan
from src.logs import log_file, log_to_file, quieten_libraries
from src.models import POCKET, BaseModel
from src.prediction.backends import VLLM, check_backend

logger = logging.getLogger(__name__)


def judge_all(plan: JudgePlan, engines: Engines | None = None) -> dict[str, dict[str, Any]]:
    """Judge all experiments of a call, with one judge; returns their records. Raises UserError for what can't be judged."""
    quieten_libraries()
    records = {}
    with Engines() if engines is None else nullcontext(engines) as shared:
        judge = make_judge(plan, shared)
        for experiment in plan.experiments:
            with (
                plan.workspace.locked(judgement=f"{experiment.name}.{plan.judge_name}"),
                log_to_file(plan.workspace.logs(experiment.name)),
            ):
                logger.debug("judging with %s", judge.identity)
                records[experiment.name] = judge_experiment(plan, experiment, judge)
            show_judgement(plan, experiment.name, records[experiment.name])
    return records


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
    import torch

    from src.judge.vllm_judge import VllmJudge

    gpus = torch.cuda.device_count()
    tensor_parallel_size = arguments.tensor_parallel_size or max(1, gpus)
    check_backend(VLLM, tensor_parallel_size)
    model = BaseModel(name)
    settings = EngineSettings(
        dtype=arguments.judge_dtype,
        max_model_len=min(arguments.max_model_len, model.longest_sequence or arguments.max_model_len),
        gpu_memory_utilization=arguments.gpu_memory_utilization,
        tensor_parallel_size=tensor_parallel_size,
    )
    return VllmJudge(model, settings, engines, log_file(plan.workspace.logs(plan.experiments[0].name)))
