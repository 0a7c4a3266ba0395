"""The command line's flags as the typed settings that each stage takes."""

from __future__ import annotations

from src.calibration import CalibrationSpec
from src.methods import CALIBRATION
from src.plan import Plan
from src.prediction import PredictionSettings
from src.training import LoraSettings, OptimizationSettings


def lora_settings(plan: Plan) -> LoraSettings:
    arguments = plan.arguments
    return LoraSettings(arguments.lora_rank, arguments.lora_alpha, arguments.lora_dropout, arguments.lora_target_modules)


def calibration_spec(plan: Plan) -> CalibrationSpec:
    arguments = plan.arguments
    return CalibrationSpec(arguments.lora_merge_strategy, arguments.for_each_component, arguments.calibration_rank)


def optimization_settings(plan: Plan) -> OptimizationSettings:
    """How the plan's adapter or calibration is trained: a calibration has a learning rate and epochs of its own."""
    arguments = plan.arguments
    if plan.method == CALIBRATION:
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


def prediction_settings(plan: Plan) -> PredictionSettings:
    arguments = plan.arguments
    return PredictionSettings(
        max_new_tokens=arguments.max_new_tokens,
        max_prompt_length=arguments.max_prompt_length,
        batch_size=arguments.prediction_batch_size,
        dtype=arguments.prediction_dtype,
    )
