"""The command line's flags as the typed settings that each stage takes."""

from __future__ import annotations

from src.calibration import CalibrationSpec
from src.loading import ExperimentData
from src.plan import Plan
from src.prediction import PredictionSettings
from src.prediction.backends import PROMPTS_AT_A_TIME, resolve_backend, resolve_dtype
from src.prompts import demonstration, instruction
from src.training import LoraSettings, OptimizationSettings


def demonstrations(plan: Plan, data: ExperimentData) -> list[dict[str, str]]:
    """The chat turns of the solved examples that stand before each question."""
    if not data.solved:
        return []
    asked = instruction(data.solved.dataset.tasks, plan.arguments.prompt_style)
    return [turn for example in data.solved.chosen for turn in demonstration(asked, example.input, example.reference)]


def lora_settings(plan: Plan) -> LoraSettings:
    arguments = plan.arguments
    return LoraSettings(arguments.lora_rank, arguments.lora_alpha, arguments.lora_dropout, arguments.lora_target_modules)


def calibration_spec(plan: Plan) -> CalibrationSpec:
    arguments = plan.arguments
    return CalibrationSpec(
        arguments.calibrate,
        arguments.for_each_component,
        arguments.calibration_rank,
        arguments.calibration_layer_groups,
        tuple(arguments.calibration_modules),
    )


def optimization_settings(plan: Plan) -> OptimizationSettings:
    """How the plan's adapter, merge or calibration is trained: a calibration has a learning rate and epochs of its own."""
    arguments = plan.arguments
    if plan.calibrates:
        learning_rate, epochs = arguments.calibration_learning_rate, arguments.calibration_epochs
    else:
        learning_rate, epochs = arguments.learning_rate, arguments.num_train_epochs
    return OptimizationSettings(
        learning_rate=learning_rate,
        epochs=epochs,
        effective_batch_size=arguments.batch_size * arguments.gradient_accumulation_steps,
        device_batch_size=arguments.device_batch_size,
        lr_scheduler_type=arguments.lr_scheduler_type,
        warmup_steps=arguments.warmup_steps,
        bf16=arguments.bf16,
        gradient_checkpointing=arguments.gradient_checkpointing,
        seed=arguments.seed,
        data_seed=arguments.data_seed,
        save_steps=arguments.save_steps,
        report_to=arguments.report_to,
        trainer=plan.trainer_options,
    )


def prediction_settings(plan: Plan, demonstrations_length: int = 0) -> PredictionSettings:
    """How the plan's answers are generated on this machine, with prompts as long as the model allows."""
    arguments, backend = plan.arguments, resolve_backend(plan.arguments.prediction_backend)
    return PredictionSettings(
        backend=backend,
        max_new_tokens=arguments.max_new_tokens,
        max_prompt_length=longest_prompt(plan, demonstrations_length),
        batch_size=arguments.prediction_batch_size or PROMPTS_AT_A_TIME[backend],
        dtype=resolve_dtype(arguments.prediction_dtype),
        gpu_memory_utilization=arguments.gpu_memory_utilization,
        tensor_parallel_size=arguments.tensor_parallel_size,
    )


def longest_prompt(plan: Plan, demonstrations_length: int = 0) -> int:
    """--max_prompt_length and the in-context examples, or what the model leaves for a prompt beside the new tokens, in tokens."""
    arguments, limit = plan.arguments, plan.base.longest_sequence
    wanted = arguments.max_prompt_length + demonstrations_length
    return wanted if limit is None else min(wanted, limit - arguments.max_new_tokens)
