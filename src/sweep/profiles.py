"""What the experiments of a benchmark have in common: settings and budgets, as flags."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Profile:
    """Flags of preparing data, every experiment, single-task training, joint experts, what learns from composed examples, judging.

    `by_method` adds to a method's flags, by its name. `own` are the user's, by the field that they add to. `last` are every
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
    by_method: dict[str, str] = field(default_factory=dict)
    own: dict[str, str] = field(default_factory=dict)
    one_process: bool = False
    calibration_examples: tuple[int, ...] = (10, 30, 100, 300, 1000, 3000, 10000)
    usual_calibration_examples: int = 10000
    usual_updates: int = 53

    def flags(self, kind: str, specific: str = "") -> str:
        """The flags of a field, then those of one method or data set, then the user's own, as later ones count more."""
        return f"{getattr(self, kind)} {specific} {self.own.get(kind, '')}"


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
    by_method={
        "dam_merge": "--lora_merge_options learning_rate=5e-2",
        "learnable_calibration_merge": "--calibration_learning_rate 5e-2",
        "learnable_calibration_pp_merge": "--calibration_learning_rate 1e-2",
        "shared_learnable_calibration_merge": "--calibration_learning_rate 5e-2 --num_examples_merge 400",
        "shared_learnable_calibration_pp_merge": "--calibration_learning_rate 1e-2 --num_examples_merge 400",
    },
)
# The paper's models, by the ends of their experiments' names.
PAPER_MODELS = {
    "llama": "meta-llama/Llama-3.2-1B-Instruct",
    "qwen": "Qwen/Qwen2.5-1.5B-Instruct",
    "slm_v1": "stabilityai/stablelm-2-1_6b-chat",
}
