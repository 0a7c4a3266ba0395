"""Targets that the single-task adapters make themselves: their multi-step answers to inputs without composed targets."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from compositional.adapters.peft_folder import StoredAdapter
from compositional.core.logs import log_file
from compositional.data import Example
from compositional.experiment.examples import Examples
from compositional.experiment.plan import Plan
from compositional.models.chat import ChatEncoder, instruction
from compositional.prediction.vllm_backend import Engines

if TYPE_CHECKING:
    from compositional.prediction import Prediction
    from compositional.prediction.predict import Generator


def with_multi_step_targets(plan: Plan, examples: Examples, engines: Engines, folder: Path) -> Examples:
    """The examples with the answers of multi-step LoRA usage as references. Their own references are not read.

    The adapters of the merge answer in their order: the main task's, then one per auxiliary task on the answer before. Answers are
    kept in `folder` batch by batch, so that an interrupted run goes on.
    """
    from compositional.prediction import make_generator
    from compositional.prediction.predict import predict_split

    name, base = plan.arguments.experiment_name, plan.base
    encoder, settings = ChatEncoder(base.tokenizer), plan.prediction()
    inputs: list[Example] = examples.chosen
    predictions: list[Prediction] = []
    engines.expect_rank(max(adapter.rank for adapter in plan.merges[0]))
    for number, (task, adapter) in enumerate(zip(plan.task_set.tasks, plan.merges[0], strict=True), start=1):

        def start(adapter: StoredAdapter = adapter) -> Generator:
            return make_generator(base, adapter, settings, engines, log_file(plan.workspace.logs(name)))

        path, description = folder / f"targets.step{number}.jsonl", f"{name}: targets, step {number}"
        predictions = predict_split(path, inputs, instruction((task,)), encoder, settings, start, description)
        inputs = [replace(example, input=one.output) for example, one in zip(inputs, predictions, strict=True)]
    targets = [Example(one.id, one.input, made.output) for one, made in zip(examples.chosen, predictions, strict=True)]
    return replace(examples, chosen=targets)
