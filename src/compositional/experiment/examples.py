"""The examples that a plan needs. They are read before anything is written."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

from compositional.core.errors import UserError
from compositional.core.files import hash_of_json
from compositional.data import Dataset, Example
from compositional.experiment.plan import Plan
from compositional.models.chat import demonstration, instruction


@dataclass(frozen=True)
class Examples:
    """Chosen examples of a split, the number available before sampling, the hash of the chosen ones, and their provenance."""

    dataset: Dataset
    chosen: list[Example]
    available: int
    hash: str
    provenance: dict[str, Any]


@dataclass(frozen=True)
class ExperimentData:
    """Training examples (of an adapter, or one set per merge), examples to predict by stage, and in-context examples."""

    training: list[Examples] = field(default_factory=list)
    stages: dict[str, Examples] = field(default_factory=dict)
    solved: Examples | None = None


_SEED_OF_PREDICTED_EXAMPLES = 42


def load_data(plan: Plan) -> ExperimentData:
    """Read and sample the splits; raises UserError that lists all missing, invalid or empty data."""
    arguments = plan.arguments
    mistakes: list[str] = []

    def read(dataset: Dataset, split: str, limit: int | None) -> Examples | None:
        # Experiments that are repeated with other seeds of training predict the same examples.
        seed = arguments.data_seed if split == "train" else _SEED_OF_PREDICTED_EXAMPLES
        try:
            return _read(dataset, split, limit, seed)
        except UserError as error:
            mistakes.extend(error.mistakes)
            return None

    limits = {"valid": arguments.max_valid_examples, "test": arguments.max_test_examples}
    stages = {stage: read(plan.task_set, split, limits[stage]) for stage, split in plan.splits.items()}
    training = [read(plan.training_set, "train", arguments.max_train_examples)] if arguments.do_train else []
    if plan.learns:
        training = [read(dataset, "train", arguments.num_examples_merge) for dataset in plan.merge_sets]
    requested = arguments.in_context_examples
    solved = read(plan.task_set, "train", requested) if requested else None
    if solved and len(solved.chosen) < requested:
        mistakes.append(
            f"--in_context_examples {requested}: the train split of {plan.task_set.name} has {len(solved.chosen)} examples"
        )
    if mistakes:
        raise UserError(*dict.fromkeys(mistakes))
    return ExperimentData(training, stages, solved)


def load_test_data(plan: Plan) -> ExperimentData:
    """The test examples and the in-context examples alone, for an experiment that has learned already; see `load_data`."""
    arguments = replace(plan.arguments, do_train=False, do_valid=False, do_predict=True)
    return load_data(replace(plan, arguments=arguments, merge_sets=[]))


def _read(dataset: Dataset, split: str, limit: int | None, seed: int) -> Examples:
    examples = dataset.read(split)
    if not examples:
        raise UserError(f"the {split} split of {dataset.name} has no examples")
    ids = {example.id for example in examples}
    if len(ids) < len(examples):
        raise UserError(f"the {split} split of {dataset.name} has duplicate ids ({len(examples) - len(ids)} too many)")
    chosen = examples
    if limit and limit < len(examples):
        indices = sorted(Random(f"{seed}/{dataset.name}/{split}").sample(range(len(examples)), limit))
        chosen = [examples[index] for index in indices]
    hash = hash_of_json([[e.id, e.input, e.reference] for e in chosen])
    return Examples(dataset, chosen, len(examples), hash, dataset.provenance())


def demonstrations(plan: Plan, data: ExperimentData) -> list[dict[str, str]]:
    """The chat turns of the in-context examples, which precede each question."""
    if not data.solved:
        return []
    request = instruction(data.solved.dataset.tasks, plan.arguments.prompt_style)
    return [turn for example in data.solved.chosen for turn in demonstration(request, example.input, example.reference)]
