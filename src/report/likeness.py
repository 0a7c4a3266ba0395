"""Whether the experiments that a table compares were made with the same settings."""

from __future__ import annotations

import json

from src.report.collect import Outcome
from src.sweep.ablations import Ablation

_BUDGET = (
    *("num_examples_merge", "calibration_epochs", "calibration_learning_rate", "calibration_rank", "calibration_layer_groups"),
    *("max_train_examples", "num_train_epochs", "learning_rate", "batch_size", "gradient_accumulation_steps", "trainer"),
    *("lora_rank", "lora_alpha", "lora_merge_options", "max_new_tokens", "prediction_dtype"),
)


def unlike_settings(outcomes: list[Outcome], ablation: Ablation | None) -> list[str]:
    """A line per setting that differs in a row, or in an ablation's series, though the table does not vary it."""
    series = {method.label: method.series for method in ablation.methods} if ablation else {}
    varied = ablation.varies if ablation else ()
    found: dict[tuple[str, str], dict[str, None]] = {}
    for one in outcomes:
        arguments = one.results.get("arguments", {})
        if arguments.get("stored_calibration"):
            continue  # what it took over was learned with another experiment's settings
        for name in _BUDGET:
            if name in arguments and f"--{name}" not in varied:
                group = series.get(one.cell.label) or one.cell.label
                found.setdefault((group, name), {})[json.dumps(arguments[name])] = None
    return [f"{group}: --{name} {', '.join(values)}" for (group, name), values in found.items() if len(values) > 1]
