"""What the experiments of a benchmark have in common: settings and budgets, as flags."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Profile:
    """Flags of preparing data, every experiment, single-task training, joint experts, what learns from composed examples, judging.

    `by_method` adds to a method's flags, by its name. `last` are every experiment's, too, and count more than all others.
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


PAPER = Profile("paper", tone_adapter="--gradient_accumulation_steps 4", learned="--num_examples_merge 10000")
# Learning rates on Pocket: the best of a few on validation splits.
POCKET = Profile(
    "pocket",
    common="@configs/pocket.txt",
    single_task="--max_train_examples 6400",
    joint_expert="--max_train_examples 3200",
    learned="--num_examples_merge 3200",
    judge="--judge_model_name_or_path pocket",
    by_method={
        "dam_merge": "--lora_merge_options learning_rate=5e-2",
        "learnable_calibration_merge": "--calibration_learning_rate 5e-2",
        "learnable_calibration_pp_merge": "--calibration_learning_rate 1e-2",
        "shared_learnable_calibration_merge": "--calibration_learning_rate 5e-2",
        "shared_learnable_calibration_pp_merge": "--calibration_learning_rate 1e-2",
    },
)
# The paper's models, by the ends of their experiments' names.
PAPER_MODELS = {
    "llama": "meta-llama/Llama-3.2-1B-Instruct",
    "qwen": "Qwen/Qwen2.5-1.5B-Instruct",
    "slm_v1": "stabilityai/stablelm-2-1_6b-chat",
}
