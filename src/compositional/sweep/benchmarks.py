"""The benchmarks: their sub-tasks with data sets and adapters, and the settings and budgets of their experiments."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field

from compositional.paper import LANGUAGES, TONES
from compositional.tasks import Task, find_task

MAIN_SETS = {
    "paper": {"summarization": "dialogsum", "reply": "synthetic_persona_chat"},
    "pocket": {"summarization": "pocket_dialogs", "reply": "pocket_replies"},
    "smollm2": {"reply": "synthetic_persona_chat", "summarization": "dialogsum"},
}
AUXILIARY_SETS = {
    "paper": {"translation": "tedtalks", "tone_adjustment": "content_rephrasing"},
    "pocket": {"translation": "pocket_sentences", "tone_adjustment": "pocket_sentences"},
    "smollm2": {"tone_adjustment": "llm_toys"},
}
# A language or tone that the tasks know beyond these is none of the benchmark's.
VARIANTS = {"translation": LANGUAGES, "tone_adjustment": TONES}
_SHORT_NAMES = {"summarization": "sum", "reply": "reply", "translation": "tr", "tone_adjustment": "tone"}


@dataclass(frozen=True)
class SubTask:
    """A main task composed with an auxiliary one, on a benchmark of `MAIN_SETS`."""

    benchmark: str
    main: Task
    auxiliary: Task

    @property
    def task(self) -> str:
        """The compositional task: sum_tr."""
        return f"{_SHORT_NAMES[self.main.name]}_{_SHORT_NAMES[self.auxiliary.name]}"

    @property
    def name(self) -> str:
        """As in the paper's experiment names: sum_tr_es."""
        return f"{self.task}_{self.auxiliary.variant}"

    @property
    def main_set(self) -> str:
        """Name of the main task's data set: dialogsum."""
        return MAIN_SETS[self.benchmark][self.main.name]

    @property
    def auxiliary_set(self) -> str:
        """Name of the auxiliary task's data set: tedtalks_es."""
        return f"{AUXILIARY_SETS[self.benchmark][self.auxiliary.name]}_{self.auxiliary.variant}"

    @property
    def composed_set(self) -> str:
        """Name of the compositional data set: dialogsum_es."""
        return f"{self.main_set}_{self.auxiliary.variant}"

    @property
    def flags(self) -> str:
        """What every experiment on the sub-task says."""
        variant = "tgt_lang" if self.auxiliary.name == "translation" else "tgt_tone"
        return (
            f"--dataset {self.main_set} --secondary_task {self.auxiliary.name} --{variant} {self.auxiliary.variant} "
            f"--secondary_task_dataset {self.composed_set}"
        )


def all_sub_tasks(benchmark: str) -> list[SubTask]:
    """The 14 sub-tasks, in the order of the paper's columns, whatever other languages and tones there are tasks for."""
    return [
        SubTask(benchmark, find_task(main), find_task(auxiliary, variant))
        for main in MAIN_SETS[benchmark]
        for auxiliary, variants in VARIANTS.items()
        for variant in variants
    ]


@dataclass(frozen=True)
class Profile:
    """Flags of preparing data, every experiment, single-task training, joint experts, what learns from composed examples, judging.

    `by_row` adds to a row's flags, by its name. `own` are the user's, by the field that they add to. `last` are every
    experiment's, too, and count more than all others. `one_process` is whether all that is done on a sub-task shares a process and
    its engine, trainings included: where starting an engine takes as long as they do. `calibration_examples` are the numbers of an
    ablation; `usual_calibration_examples` is how many `learned` says, and `usual_updates` how many updates they make.
    """

    benchmark: str
    data: str = ""
    common: str = ""
    single_task: str = ""
    tone_adapter: str = ""
    joint_expert: str = ""
    learned: str = ""
    judge: str = ""
    last: str = ""
    by_row: dict[str, str] = field(default_factory=dict)
    own: dict[str, str] = field(default_factory=dict)
    one_process: bool = False
    calibration_examples: tuple[int, ...] = (10, 30, 100, 300, 1000, 3000, 10000)
    usual_calibration_examples: int = 10000
    usual_updates: int = 53

    def flags(self, kind: str, specific: str = "") -> list[str]:
        """The words of a field, then those of one row or data set, then the user's own, as later ones count more."""
        return shlex.split(f"{getattr(self, kind)} {specific} {self.own.get(kind, '')}")


PAPER = Profile("paper", tone_adapter="--gradient_accumulation_steps 4", learned="--num_examples_merge 10000")
# Learning rates on Pocket: the best of a few on validation splits.
POCKET = Profile(
    "pocket",
    common="@configs/pocket.txt",
    single_task="--max_train_examples 3200",
    joint_expert="--max_train_examples 1280 --batch_size 8",
    learned="--num_examples_merge 1280 --batch_size 8",
    judge="--judge_model_name_or_path pocket",
    one_process=True,
    calibration_examples=(10, 30, 100, 300, 1280, 3000, 8000),
    usual_calibration_examples=1280,
    usual_updates=160,
    by_row={
        "dam_merge": "--lora_merge_options learning_rate=5e-2",
        "dam_composed_merge": "--lora_merge_options learning_rate=5e-2",
        "learnable_calibration_merge": "--calibration_learning_rate 5e-2",
        "learnable_calibration_pp_merge": "--calibration_learning_rate 1e-2",
        "own_targets_pp_merge": "--calibration_learning_rate 1e-2",
        "shared_learnable_calibration_merge": "--calibration_learning_rate 5e-2 --num_examples_merge 400",
        "shared_learnable_calibration_pp_merge": "--calibration_learning_rate 1e-2 --num_examples_merge 400",
    },
)
# A real LLM and real text on two cores in tens of minutes; learning rates from a few trials. The base model is named beside it.
SMOLLM2 = Profile(
    "smollm2",
    common="--lora_rank 16 --lora_dropout 0 --learning_rate 1e-3 --batch_size 16 --gradient_accumulation_steps 1 --report_to none",
    joint_expert="--max_train_examples 640",
    learned="--num_examples_merge 640",
    one_process=True,
    usual_calibration_examples=640,
    usual_updates=40,
    by_row={
        "learnable_calibration_merge": "--calibration_learning_rate 2e-2",
        "learnable_calibration_pp_merge": "--calibration_learning_rate 5e-3",
        "own_targets_pp_merge": "--calibration_learning_rate 5e-3",
    },
)
