"""The flags of `run_sweep.py`."""

from __future__ import annotations

from dataclasses import dataclass

from compositional.core.flags import COUNT, build_parser, flag, parse
from compositional.paper import LANGUAGES, TONES

MAIN = "main"
TABLES = (
    MAIN,
    "calibration_examples",
    "calibration_rank",
    "calibration_layers",
    "calibrated_merge",
    "calibration_without_loras",
    "calibration_targets",
)
TASKS = ("sum_tr", "sum_tone", "reply_tr", "reply_tone")


@dataclass
class Selection:
    """Which experiments a table is made of."""

    table: str = flag(MAIN, "what", "the paper's main table, or an ablation's", choices=TABLES)
    models: list[str] = flag(
        ("pocket",), "what", "base models: pocket, or llama, qwen, slm_v1 (the paper's), hub ids or folders on the paper's data"
    )
    tasks: list[str] = flag(TASKS, "what", "compositional tasks", choices=TASKS)
    methods: list[str] = flag(
        (),
        "what",
        "rows, such as linear_merge; of the main table also paper (its 18, the default), own (merges beyond the paper), a merge "
        "strategy, or a file with one; an ablation has all of its own by default",
    )
    languages: list[str] = flag(LANGUAGES, "what", "languages of the translations")
    tones: list[str] = flag(TONES, "what", "tones of the tone adjustment")
    sub_tasks: list[str] = flag(
        (), "what", "exactly these, such as sum_tr_es reply_tone_casual, in place of --tasks, --languages and --tones"
    )
    seeds: list[int] = flag(
        (0,), "what", "seeds of everything that is trained, single-task adapters included; each has experiments of its own"
    )
    workspace: str = flag(".", "what", "folder that holds data, output, predictions, stored_models and logs")


@dataclass
class SweepArguments(Selection):
    """Which experiments a table is made of, and how they are run."""

    experiment_flags: str = flag(
        "", "experiments", "more flags of every experiment, as one quoted text: =' --max_test_examples 100'"
    )
    single_task_flags: str = flag("", "experiments", "more flags of single-task training, after the benchmark's")
    joint_expert_flags: str = flag("", "experiments", "more flags of joint experts, after the benchmark's")
    learned_flags: str = flag("", "experiments", "more flags of what learns from composed examples, after the benchmark's")
    data_flags: str = flag("", "experiments", "more flags of prepare_compositional_task_data.sh")
    judge_flags: str = flag("", "experiments", "more flags of llm_judge_eval.py, after the benchmark's")
    no_judge: bool = flag(False, "experiments", "predict and score only")

    dry_run: bool = flag(False, "running", "print the commands in order, and run none")
    print_commands: str | None = flag(
        None, "running", "print them as a shell script, or as one that submits Slurm arrays", choices=("shell", "slurm")
    )
    address: str | None = flag(None, "running", "a Ray cluster's address; default: this machine. Its machines share the workspace")
    cpus_per_task: int | None = flag(
        None, "running", "processor cores of each task where there is no GPU; default: all of a machine's", range=COUNT
    )
    gpus_per_task: int = flag(1, "running", "GPUs of each task, where there are any", range=COUNT)
    gpus_per_judge: int = flag(1, "running", "GPUs of the judge, where there are any", range=COUNT)


def parse_sweep_arguments(argv: list[str]) -> tuple[SweepArguments, list[str]]:
    """Parse a command line of `run_sweep.py`; see `flags.parse`."""
    description = "Run all experiments of a table: data, single-task adapters, methods, judge."
    return parse(build_parser(SweepArguments, "run_sweep.py", description), SweepArguments, argv)
