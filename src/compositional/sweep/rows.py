"""The rows of the main table as command lines: the 18 of the paper, and some of our own."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Formatter

from compositional.calibration import DEFAULT_NUM_EXAMPLES
from compositional.core.errors import UserError
from compositional.core.flags import fault_of_name
from compositional.sweep.benchmarks import SubTask, all_sub_tasks
from compositional.sweep.steps import Kind


@dataclass(frozen=True)
class Naming:
    """How adapters and experiments are called: {prefix}{name}{suffix}, such as sum_tr_es_linear_merge_slm_v1.

    The suffix tells models and seeds apart.
    """

    prefix: str = ""
    suffix: str = ""

    def adapter(self, dataset: str) -> str:
        """Stored name of a data set's single-task adapter."""
        return f"{dataset}_lora{self.suffix}"

    def experiment(self, sub_task: SubTask, row: str) -> str:
        """Name of the experiment of a table row on a sub-task."""
        return f"{self.prefix}{sub_task.name}_{row}{self.suffix}"


@dataclass(frozen=True)
class TableRow:
    """A row: its label in the table, its part of an experiment's name, and the flags that ask for it.

    In the flags, {main} and {auxiliary} stand for the single-task adapters, {main_set} and {auxiliary_set} for their data sets,
    {composed} for the compositional set, {experiment} for the experiment's name. `kind` is what its experiments do. `learns` is
    whether they learn from as many examples as the benchmark's budget says. A row of an ablation has the budget of the row that it
    is `like`, its own `setting`, and belongs to a `series` of rows at a `value`.
    """

    label: str
    name: str
    flags: str
    kind: Kind = Kind.MERGE
    learns: bool = False
    like: str = ""
    setting: str = ""
    series: str = ""
    value: int = 0

    @property
    def trains(self) -> bool:
        """Whether it trains an adapter on the compositional set."""
        return self.kind is Kind.TRAIN

    @property
    def rests_on_training(self) -> bool:
        """Whether its outputs depend on a training, if only on those of the single-task adapters."""
        return "--zero_shot" not in shlex.split(self.flags)

    def adapters(self, sub_task: SubTask, naming: Naming) -> list[str]:
        """The single-task adapters that its flags name."""
        names = {"main": naming.adapter(sub_task.main_set), "auxiliary": naming.adapter(sub_task.auxiliary_set)}
        named = {field for _, field, _, _ in Formatter().parse(self.flags)}
        return [name for role, name in names.items() if role in named]


_MERGED = "--lora_merge_modules {main} {auxiliary}"
_LEARNED = f"{_MERGED} --merge_datasets {{composed}}"
_LEARNED_FROM_SINGLE_TASKS = f"{_MERGED} --merge_datasets {{main_set}} {{auxiliary_set}}"


def _merge(label: str, strategy: str, name: str = "") -> TableRow:
    return TableRow(label, f"{name or strategy}_merge", f"--lora_merge_strategy {strategy} {_MERGED}")


PAPER_ROWS = (
    TableRow("Zero-shot", "zero_shot", "--zero_shot --stored_model_name {main}", Kind.PREDICT),
    TableRow("Main-task LoRA", "main_lora", "--stored_model_name {main}", Kind.PREDICT),
    TableRow("Auxiliary-task LoRA", "auxiliary_lora", "--auxiliary_lora --secondary_stored_model_name {auxiliary}", Kind.PREDICT),
    TableRow(
        "In-context learning", "in_context", "--zero_shot --stored_model_name {main} --in_context_examples 3", Kind.IN_CONTEXT
    ),
    _merge("Linear merge", "peft_linear", "linear"),
    _merge("Concat merge", "peft_cat", "concat"),
    _merge("TIES merge", "peft_ties", "ties"),
    _merge("DARE merge", "peft_dare_linear", "dare"),
    _merge("Slerp merge", "slerp"),
    TableRow("LoraHub merge", "lorahub_merge", f"--lora_merge_strategy lorahub {_LEARNED}", Kind.LEARN),
    TableRow("LM-Cocktail merge", "lm_cocktail_merge", f"--lora_merge_strategy lm_cocktail {_LEARNED}", Kind.LEARN),
    TableRow("DAM/ZipLoRA merge", "dam_merge", f"--lora_merge_strategy dam {_LEARNED_FROM_SINGLE_TASKS}", Kind.LEARN, learns=True),
    TableRow(
        "Multi-step LoRA usage",
        "multi_step",
        "--stored_model_name {main} --secondary_stored_model_name {auxiliary} --multi_step_prompts --prompt_style empty",
        Kind.MULTI_STEP,
    ),
    TableRow(
        "Joint-expert LoRA",
        "joint_expert_lora",
        "--stored_model_name {experiment} --multi_task_train_targets --do_train",
        Kind.TRAIN,
    ),
    TableRow(
        "Learnable Calibration",
        "learnable_calibration_merge",
        f"--for_each_component --lora_merge_strategy learnable_calibration {_LEARNED}",
        Kind.LEARN,
        learns=True,
    ),
    TableRow(
        "Learnable Calibration++",
        "learnable_calibration_pp_merge",
        f"--for_each_component --lora_merge_strategy learnable_calibration_pp {_LEARNED}",
        Kind.LEARN,
        learns=True,
    ),
)
OWN_ROWS = (
    _merge("exact mean", "linear", "exact_linear"),
    TableRow("exact sum", "exact_sum_merge", f"--lora_merge_strategy linear {_MERGED} --lora_merge_weights 1 1"),
    _merge("exact TIES", "ties", "exact_ties"),
    _merge("exact DARE", "dare", "exact_dare"),
    _merge("KnOTS", "knots"),
    TableRow(
        "LC++ from multi-step targets",
        "own_targets_pp_merge",
        f"--for_each_component --lora_merge_strategy learnable_calibration_pp --calibration_targets multi_step {_LEARNED}",
        Kind.LEARN,
        learns=True,
    ),
    TableRow(
        "DAM on composed targets", "dam_composed_merge", f"--lora_merge_strategy dam_composed {_LEARNED}", Kind.LEARN, learns=True
    ),
    TableRow("singular value calibration", "svc_merge", f"--lora_merge_strategy svc {_MERGED} --lora_merge_weights 1 1"),
)


def strategy_row(strategy: str) -> TableRow:
    """The row of a merge strategy of `merging/`, or of a file with one. Raises UserError when it is none, or its
    name can't be that of an experiment.

    It has the budget of what learns from composed examples if it doesn't say how many it wants.
    """
    from compositional.merging import find_strategy

    found = find_strategy(strategy)
    stem = Path(strategy).stem
    if fault := fault_of_name(f"merge_by_{stem}"):
        raise UserError(f"--methods {strategy}: experiments are named after it: {fault}")
    asked = whole_path(strategy) if strategy.endswith(".py") else strategy
    learned = _LEARNED_FROM_SINGLE_TASKS if found.learns_single_tasks else _LEARNED
    named = shlex.quote(asked).replace("{", "{{").replace("}", "}}")
    flags = f"--lora_merge_strategy {named} {learned if found.learns else _MERGED}"
    return TableRow(
        stem,
        f"merge_by_{stem}",
        flags,
        Kind.LEARN if found.learns else Kind.MERGE,
        learns=found.num_examples == DEFAULT_NUM_EXAMPLES,
    )


def whole_path(file: str) -> str:
    """A file's path from the root, under its own name even if it is a link: experiments and rows are named after it."""
    return str(Path(file).parent.resolve() / Path(file).name)


SHARED = {
    "Shared Learnable Calibration": "learnable_calibration",
    "Shared Learnable Calibration++": "learnable_calibration_pp",
}


def row_flags(row: TableRow, sub_task: SubTask, naming: Naming) -> list[str]:
    """The words of one experiment, but for budgets and what is to be predicted."""
    experiment = naming.experiment(sub_task, row.name)
    names = {
        "main": naming.adapter(sub_task.main_set),
        "auxiliary": naming.adapter(sub_task.auxiliary_set),
        "main_set": sub_task.main_set,
        "auxiliary_set": sub_task.auxiliary_set,
        "composed": sub_task.composed_set,
        "experiment": experiment,
    }
    asked = [word.format(**names) for word in shlex.split(row.flags)]  # split first, as names may have blanks and quotes
    return ["--experiment_name", experiment, *sub_task.flags.split(), *asked]


def shared_name(calibration: str, sub_tasks: Sequence[SubTask]) -> str:
    """The part of an experiment's name of a calibration that all sub-tasks of the benchmark share, or only some."""
    some = "" if len(sub_tasks) == len(all_sub_tasks(sub_tasks[0].benchmark)) else f"by_{len(sub_tasks)}_"
    return f"shared_{some}{calibration}_merge"


def shared_flags(calibration: str, sub_tasks: Sequence[SubTask], naming: Naming) -> list[list[str]]:
    """The words of the experiments that share a calibration: the first learns it for all of them, the others take it."""
    pairs = [(naming.adapter(one.main_set), naming.adapter(one.auxiliary_set)) for one in sub_tasks]
    name = shared_name(calibration, sub_tasks)
    stored = naming.experiment(sub_tasks[0], name)
    merged = ["--lora_merge_modules", *(adapter for pair in pairs for adapter in pair)]
    learned = ["--for_each_component", "--lora_merge_strategy", calibration]
    learned += ["--merge_datasets", *(one.composed_set for one in sub_tasks), *merged]
    taken = [
        ["--lora_merge_strategy", "linear", "--lora_merge_modules", *pair, "--stored_calibration", stored] for pair in pairs[1:]
    ]
    return [
        ["--experiment_name", naming.experiment(one, name), *one.flags.split(), *flags]
        for one, flags in zip(sub_tasks, [learned, *taken], strict=True)
    ]


def shared_names() -> dict[str, str]:
    """The kinds of shared calibrations by the names of their rows."""
    return {f"shared_{calibration}_merge": calibration for calibration in SHARED.values()}
