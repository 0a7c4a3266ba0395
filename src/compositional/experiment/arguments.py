"""The flags of `run_experiment.py`. Each declaration holds everything about a flag; `core/flags.py` explains the parts.

The certainty of a default says how certain it is that the paper uses it: "read" in an authors' source, "arith" from arithmetic
on published numbers, "sibling" in a later code base of overlapping authors, "ours" otherwise.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from compositional.calibration import METHODS as CALIBRATION_METHODS
from compositional.core.flags import COUNT, NOT_NEGATIVE, POSITIVE, SEED, SHARE, Range, build_parser, flag, parse
from compositional.formats.gguf import QUANTIZED
from compositional.prediction import LLAMA_CPP

# The methods of answering a compositional request, as selected on the command line.
ZERO_SHOT = "zero_shot"
LORA = "lora"
AUXILIARY_LORA = "auxiliary_lora"
JOINT_EXPERT = "joint_expert"
MULTI_STEP = "multi_step"
MERGE = "merge"
CALIBRATION = "calibration"

# What a calibration learns; the other value is MULTI_STEP.
DATA_SET = "data_set"

SECONDARY_TASKS = ("translation", "tone_adjustment")
LORA_MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass
class Arguments:
    """All settings of one experiment. Groups decide which settings are recorded with an artefact and compared on resuming."""

    experiment_name: str | None = flag(None, "experiment", "name of the experiment and of its folders (required)", is_name=True)
    dataset: str | None = flag(None, "experiment", "data set of the main task, or of the only task (required)")
    model_name_or_path: str | None = flag(
        None, "experiment", "base model: hub id, folder, or 'pocket'; default: the base model of the named adapters", path="folder"
    )
    ignore_recorded_base_model: bool = flag(
        False, "experiment", "use adapters that record another base model than --model_name_or_path; their shapes must fit"
    )
    stored_model_name: str | None = flag(None, "experiment", "adapter that training writes and that prediction reads", is_name=True)
    do_train: bool = flag(False, "do", "train a LoRA adapter and store it")
    do_valid: bool = flag(False, "do", "predict and score the validation split")
    do_predict: bool = flag(False, "do", "predict and score the test split")
    overwrite: bool = flag(False, "do", "delete the results of an earlier run of this experiment, and start again")

    secondary_task: list[str] = flag(
        (), "experiment", "auxiliary task composed with the main task, or several in order", choices=SECONDARY_TASKS
    )
    secondary_task_dataset: str | None = flag(
        None, "experiment", "compositional data set: the main task's inputs, with targets after all tasks"
    )
    tgt_lang: str | None = flag(None, "experiment", "target language of the translation, such as es")
    tgt_tone: str | None = flag(None, "experiment", "tone to adjust to, such as professional")

    zero_shot: bool = flag(False, "method", "use the base model without any adapter")
    multi_task_train_targets: bool = flag(False, "method", "joint-expert LoRA: train on the compositional targets")
    auxiliary_lora: bool = flag(False, "method", "auxiliary-task LoRA: answer with --secondary_stored_model_name alone")
    secondary_stored_model_name: list[str] = flag(
        (),
        "method",
        "adapter of the auxiliary task; for --multi_step_prompts one per auxiliary task, in order",
        is_name=True,
    )
    multi_step_prompts: bool = flag(
        False, "method", "multi-step LoRA usage: one pass for the main task, then one for each auxiliary task"
    )
    prompt_style: str = flag(
        "compositional",
        "method",
        "compositional: the prompt names all tasks; empty: it names the main task only",
        choices=("compositional", "empty"),
    )
    lora_merge_strategy: str | None = flag(
        None,
        "method",
        "how the adapters of --lora_merge_modules are merged: a strategy listed below, or a file of your own",
        path="file",
    )
    lora_merge_modules: list[str] = flag((), "method", "stored adapters to merge", is_name=True)
    lora_merge_weights: list[float] = flag((), "method", "a weight per adapter; default: equal weights that add up to 1", "sibling")
    lora_merge_options: list[str] = flag(
        (), "method", "KEY=VALUE ...: options of the merge strategy, such as density=0.5", repeatable=True, is_budget=True
    )
    calibrate: str | None = flag(
        None,
        "method",
        "learn a calibration of the merge; as --lora_merge_strategy, these names calibrate the linear merge",
        choices=CALIBRATION_METHODS,
    )
    stored_calibration: str | None = flag(
        None,
        "method",
        "name of an experiment whose learned calibration is applied to the merge, such as a shared one",
        is_name=True,
    )

    for_each_component: bool = flag(
        False, "calibration", "one calibration per module type (q, k, v, o, gate, up, down) instead of one per module shape", "read"
    )
    merge_datasets: list[str] = flag(
        (),
        "calibration",
        "compositional data set whose training split a calibration or merge learns from; several sets share one calibration: "
        "--lora_merge_modules then lists the adapters for the first set, for the second, ...; for dam, the single-task set of each "
        "adapter",
    )
    calibration_targets: str = flag(
        DATA_SET,
        "calibration",
        "what a calibration learns: the targets of --merge_datasets, or, without reading them, the multi-step answers of "
        "--lora_merge_modules (the main task's adapter, then one per auxiliary task) to its inputs; --merge_datasets may then be "
        "the main task's set",
        choices=(DATA_SET, MULTI_STEP),
    )
    num_examples_merge: int | None = flag(
        None,
        "calibration",
        "training examples of each --merge_datasets; default: 10000 [read], 5 for lorahub and lm_cocktail",
        range=COUNT,
        is_budget=True,
    )
    calibration_rank: int = flag(4, "calibration", "rank of LC++", "arith", range=COUNT, is_budget=True)
    calibration_layer_groups: int = flag(
        1,
        "calibration",
        "number of groups of consecutive layers, each with its own parameters: 1 shares them, 0 makes a group per layer",
        "read",
        range=NOT_NEGATIVE,
        is_budget=True,
    )
    calibration_modules: list[str] = flag((), "calibration", "module types to calibrate; default: all that the merge updates")
    calibration_learning_rate: float | None = flag(
        None, "calibration", "default: 1e-2 for LC, 1e-3 for LC++", range=POSITIVE, is_budget=True
    )
    calibration_epochs: float = flag(1.0, "calibration", "passes over the calibration examples", range=POSITIVE, is_budget=True)

    lora_rank: int = flag(32, "training", "LoRA rank", "arith", range=COUNT, is_budget=True)
    lora_alpha: int = flag(
        16, "training", "LoRA alpha; the update is scaled by alpha / rank", "sibling", range=COUNT, is_budget=True
    )
    lora_dropout: float = flag(0.05, "training", "dropout on the LoRA input", "sibling", range=Range(at_least=0, below=1))
    lora_target_modules: list[str] = flag(LORA_MODULES, "training", "types of the linear modules that get a LoRA", "arith")
    learning_rate: float = flag(
        5e-5,
        "training",
        "peak learning rate of LoRA training",
        "sibling",
        range=POSITIVE,
        is_budget=True,
        trainer_name="learning_rate",
    )
    num_train_epochs: float = flag(
        1.0,
        "training",
        "passes over the training examples",
        "sibling",
        range=POSITIVE,
        is_budget=True,
        trainer_name="num_train_epochs",
    )
    max_train_examples: int | None = flag(
        None, "training", "train on a seeded sample of this many examples", range=COUNT, is_budget=True
    )

    batch_size: int = flag(
        3,
        "optimization",
        "an update is made of --batch_size × --gradient_accumulation_steps examples",
        "sibling",
        range=COUNT,
        is_budget=True,
        trainer_name="per_device_train_batch_size",
    )
    gradient_accumulation_steps: int = flag(
        64,
        "optimization",
        "see --batch_size; the paper uses 4 for tone adjustment",
        "sibling",
        range=COUNT,
        is_budget=True,
        trainer_name="gradient_accumulation_steps",
    )
    lr_scheduler_type: str = flag(
        "cosine", "optimization", "transformers' learning-rate schedule", "sibling", trainer_name="lr_scheduler_type"
    )
    warmup_steps: int = flag(
        10, "optimization", "updates of linear warm-up", "sibling", range=NOT_NEGATIVE, trainer_name="warmup_steps"
    )
    max_length: int = flag(
        512,
        "optimization",
        "maximum sequence length in tokens; longer inputs are truncated at their end, and counted",
        "sibling",
        range=COUNT,
    )
    train_on_source: bool = flag(False, "optimization", "train on the prompt's tokens as well")
    bf16: bool = flag(
        False,
        "optimization",
        "train in bfloat16 mixed precision, with a float32 base; a CPU without bfloat16 instructions uses float32",
        trainer_name="bf16",
    )
    train_dtype: str = flag(
        "auto",
        "optimization",
        "precision of the frozen base in training; adapters and optimizer are in float32; auto, for models of at least 50M "
        "parameters: bfloat16 on a GPU, --bf16 on a CPU with AMX or fast AVX512-BF16; float32 otherwise; q8_0 and q4_1: weights as "
        "a GGUF file of that precision has them, in float32",
        choices=("auto", "float32", "bfloat16", *QUANTIZED),
        is_budget=True,
    )
    seed: int = flag(0, "optimization", "seed of weights, dropout and sampling", "sibling", range=SEED, trainer_name="seed")
    data_seed: int = flag(
        42, "optimization", "seed of the order of the training examples", "sibling", range=SEED, trainer_name="data_seed"
    )
    trainer: list[str] = flag(
        (),
        "optimization",
        "KEY=VALUE ...: any other setting of transformers' TrainingArguments",
        repeatable=True,
        is_budget=True,
    )

    max_valid_examples: int | None = flag(None, "prediction", "predict a seeded sample of the validation split", range=COUNT)
    max_test_examples: int | None = flag(None, "prediction", "predict a seeded sample of the test split", range=COUNT)
    in_context_examples: int = flag(
        0,
        "prediction",
        "in-context learning: number of solved training examples before each question",
        range=NOT_NEGATIVE,
    )
    max_new_tokens: int = flag(128, "prediction", "maximum number of generated tokens", "sibling", range=COUNT, is_budget=True)
    max_prompt_length: int | None = flag(
        None, "prediction", "maximum prompt length in tokens, without in-context examples; default: --max_length", range=COUNT
    )
    prediction_backend: str = flag(
        "auto",
        "prediction",
        "library that generates; auto: vLLM on a GPU, transformers otherwise; llama_cpp runs on the CPU",
        choices=("auto", "vllm", "transformers", LLAMA_CPP),
    )
    llama_cpp_url: str | None = flag(
        None,
        "prediction",
        "address of a running llama-server that answers, here or on a phone, such as http://localhost:8080, for "
        "--prediction_backend llama_cpp; it needs the files of export.py; default: a server of this process",
    )
    prediction_dtype: str = flag(
        "auto",
        "prediction",
        "precision of the model in prediction; auto: bfloat16 on a GPU (float16 on an older one), float32 otherwise; q8_0 and q4_1 "
        "are llama_cpp's, with adapters in float16",
        choices=("auto", "float32", "bfloat16", "float16", *QUANTIZED),
        is_budget=True,
    )
    rouge_tokenizer: str = flag(
        "auto",
        "scoring",
        "tokenizer of the headline ROUGE; auto: the paper's for English references, unicode for others; both are recorded",
        choices=("auto", "paper", "unicode"),
    )
    bootstrap_resamples: int = flag(1000, "scoring", "bootstrap resamples for each 95 %% interval", range=COUNT)

    compact_rank: int | None = flag(
        None,
        "storage",
        "rank that a merge, with LC++ in it, is cut to by SVD before it is stored; its error is recorded; default: exact",
        range=COUNT,
    )
    adapter_dtype: str = flag(
        "float16", "storage", "precision in which adapters are stored", "arith", choices=("float32", "float16", "bfloat16")
    )

    device_batch_size: int | None = flag(
        None,
        "machine",
        "maximum examples per batch on the device; changes speed and memory, not the result; default: no limit",
        range=COUNT,
    )
    device_batch_tokens: int | None = flag(
        None,
        "machine",
        "maximum tokens per batch on the device in training, padding included; default: 2048 on a CPU, 8192 on a GPU",
        range=COUNT,
    )
    torch_compile: str = flag(
        "auto",
        "machine",
        "compile the model's layers for training; auto: on a CPU with a C++ compiler, where the run is long enough to gain time",
        choices=("auto", "on", "off"),
        trainer_name="torch_compile",
    )
    prediction_batch_size: int | None = flag(
        None,
        "machine",
        "prompts per batch; a run can resume after each batch; default: 256 for vLLM, 64 for transformers",
        range=COUNT,
    )
    gpu_memory_utilization: float = flag(0.9, "machine", "share of each GPU's memory that vLLM takes", range=SHARE)
    tensor_parallel_size: int = flag(1, "machine", "number of GPUs that vLLM distributes the model over", range=COUNT)
    gradient_checkpointing: bool = flag(
        False,
        "machine",
        "recompute activations in the backward pass, to save memory",
        trainer_name="gradient_checkpointing",
    )
    save_steps: int = flag(
        20,
        "machine",
        "updates between checkpoints; an interrupted training resumes from the last one",
        range=COUNT,
        trainer_name="save_steps",
    )
    report_to: list[str] = flag(
        ("tensorboard",),
        "machine",
        "trackers of transformers' Trainer: tensorboard, wandb, none",
        trainer_name="report_to",
    )
    raw_data_dir: str | None = flag(
        None, "machine", "folder with the publishers' files; default: data/ if prepared, else the hub", path="folder"
    )
    workspace: str = flag(
        ".",
        "machine",
        "folder that holds data, output, predictions, stored_models and logs",
        trainer_name="output_dir",
    )


def fields_of(*groups: str) -> list[str]:
    """Names of the flags in the given groups."""
    return [field.name for field in dataclasses.fields(Arguments) if field.metadata["group"] in groups]


def budget_flags() -> list[str]:
    """Names of the flags that set how much is learned or generated."""
    return [field.name for field in dataclasses.fields(Arguments) if field.metadata["is_budget"]]


def parse_arguments(argv: list[str]) -> tuple[Arguments, list[str]]:
    """Parse a command line of `run_experiment.py`; see `flags.parse`."""
    description = "Train LoRA adapters, merge and calibrate them, predict, and score: one experiment."
    return parse(build_parser(Arguments, "run_experiment.py", description, _listing), Arguments, argv)


def _listing() -> str:
    """The available merge strategies, calibrations, data sets and tasks, one line each."""
    from pathlib import Path

    from compositional.calibration import DESCRIPTIONS
    from compositional.data import Locations, all_datasets
    from compositional.merging import strategies
    from compositional.tasks import all_tasks

    merges = {name: strategy.title for name, strategy in strategies().items()}
    sets = {
        name: ", then ".join(f"{task.name} {task.variant or ''}".strip() for task in dataset.tasks)
        for name, dataset in all_datasets(Locations(Path("data"), None)).items()
    }
    tasks = {f"{task.name} {task.variant or ''}".strip(): f"{task.role} task" for task in all_tasks()}
    parts = {"merge strategies": merges, "calibrations": DESCRIPTIONS, "data sets": sets, "tasks": tasks}
    return "\n\n".join(
        "\n".join([f"{title}:", *(f"  {name:<36} {meaning}" for name, meaning in entries.items())])
        for title, entries in parts.items()
    )
