"""Small adapters of tiny models, and what they and their merges come to, multiplied out by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from compositional.adapters.lora import LoraAdapter, LoraFactors
from compositional.adapters.peft_folder import write_adapter
from compositional.calibration import LC, CalibrationSpec
from compositional.calibration.parameters import Calibration
from compositional.core.errors import UserError
from compositional.core.workspace import Workspace
from compositional.models.chat import IGNORED, TrainingSequence
from compositional.models.model import Model
from helpers.calibrating import MODULES
from helpers.preparing import files_in

TINY = (
    "--max_test_examples 3 --max_new_tokens 4 --bootstrap_resamples 10 --batch_size 4 --gradient_accumulation_steps 1 "
    "--warmup_steps 0 --report_to none --adapter_dtype float32 --dataset pocket_dialogs --secondary_task translation "
)
SPANISH = f"{TINY}--tgt_lang es --secondary_task_dataset pocket_dialogs_es "
MERGE = "--lora_merge_strategy linear --lora_merge_modules one two "
LEARN = f"{MERGE}--merge_datasets pocket_dialogs_es --calibrate learnable_calibration "
ASKED = "Summarize the following text, then translate it to Spanish"
START = f"<|user|>{ASKED}:\n\n"


def adapter_of(folder: Path, name: str, seed: int, rank: int, scaling: float, kinds: tuple[str, ...] = MODULES) -> LoraAdapter:
    """A random adapter of a tiny model's modules, large enough to be seen in the loss."""
    generator, factors = torch.Generator().manual_seed(seed), {}
    for path, (d_out, d_in) in Model(str(folder)).linear_shapes.items():
        if path.rsplit(".", 1)[-1] in kinds:
            A, B = torch.randn(rank, d_in, generator=generator), torch.randn(d_out, rank, generator=generator)
            factors[path] = LoraFactors(0.2 * A, 0.2 * B, scaling)
    return LoraAdapter(name, str(folder), factors)


def two_of(folder: Path) -> list[LoraAdapter]:
    return [adapter_of(folder, "one", 1, 2, 2.0), adapter_of(folder, "two", 2, 3, 0.5)]


def store(workspace: Workspace, adapters: list[LoraAdapter]) -> None:
    for adapter in adapters:
        write_adapter(workspace.stored_model(adapter.name), adapter, "float32")


def folded(folder: Path, adapters: list[LoraAdapter], weights: list[float]) -> torch.nn.Module:
    """The model with the weighted updates in its weights, multiplied out here."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    for adapter, weight in zip(adapters, weights, strict=True):
        for path, factors in adapter.factors.items():
            model.get_submodule(path).weight.data += weight * factors.scaling * factors.B @ factors.A
    return model


def loss_by_hand(model: torch.nn.Module, sequences: list[TrainingSequence]) -> float:
    """Each sequence alone, unpadded, and its target token by token."""
    costs = []
    for sequence in sequences:
        with torch.no_grad():
            log_chances = model(input_ids=torch.tensor([sequence.ids])).logits[0].log_softmax(dim=-1)
        costs += [-log_chances[place - 1, label].item() for place, label in enumerate(sequence.labels) if label != IGNORED]
    return sum(costs) / len(costs)


def assert_sum(merged: LoraAdapter, adapters: list[LoraAdapter], weights: list[float]) -> None:
    for path, factors in merged.factors.items():
        expected = sum(weight * adapter.factors[path].delta() for weight, adapter in zip(weights, adapters, strict=True))
        torch.testing.assert_close(factors.delta(), expected, rtol=1e-4, atol=1e-5)


def mistake_in(flags: str, run: Callable[[str], None], workspace: Workspace) -> str:
    """The one mistake in a command, which writes nothing."""
    before = files_in(workspace.root)
    with pytest.raises(UserError) as caught:
        run(flags)
    assert files_in(workspace.root) == before
    (line,) = caught.value.mistakes
    return line


def shapes_in(*adapters: LoraAdapter) -> dict[str, tuple[int, int]]:
    return {path: (factors.d_out, factors.d_in) for adapter in adapters for path, factors in adapter.factors.items()}


def random_calibration(spec: CalibrationSpec, shapes: dict[str, tuple[int, int]]) -> Calibration:
    made = Calibration(spec, shapes)
    torch.manual_seed(11)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return made


def calibrated_by_hand(folder: Path, merged: LoraAdapter, made: Calibration) -> torch.nn.Module:
    """A model of two layers with merge and P2 P1 in its weights and p in its biases; a group of layers is one layer here."""
    model = folded(folder, [merged], [1.0])
    for path in merged.factors:
        layer, kind = path.split(".")[2], path.split(".")[-1]
        name = kind if made.spec.layer_groups == 1 else f"{kind}_group{layer}"
        module = model.get_submodule(path)
        if made.spec.modules and kind not in made.spec.modules:
            continue
        if made.spec.method == LC:
            module.bias = torch.nn.Parameter(made.p[name].detach() + (0 if module.bias is None else module.bias.detach()))
        else:
            module.weight.data += made.P2[name] @ made.P1[name]
    return model
