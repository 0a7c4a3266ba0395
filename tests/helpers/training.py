"""Settings and sequences for small trainings."""

from __future__ import annotations

from compositional.data import Example
from compositional.models.chat import ChatEncoder, TrainingSequence
from compositional.training import OptimizationSettings
from compositional.training.precision import Precision


def optimization(**changes) -> OptimizationSettings:
    settings = {
        "learning_rate": 1e-2,
        "epochs": 1.0,
        "effective_batch_size": 6,
        "device_batch_size": None,
        "device_batch_tokens": None,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0,
        "precision": Precision(),
        "torch_compile": "off",
        "gradient_checkpointing": False,
        "seed": 0,
        "data_seed": 42,
        "save_steps": 100,
        "report_to": ["none"],
    }
    return OptimizationSettings(**(settings | changes))


def sequences_of(tokenizer, count: int) -> list[TrainingSequence]:
    encoder = ChatEncoder(tokenizer)
    texts = ["word " * (1 + number % 7) for number in range(count)]
    return [encoder.training_sequence("Repeat", Example(str(n), text, text.strip()), 64, False) for n, text in enumerate(texts)]
