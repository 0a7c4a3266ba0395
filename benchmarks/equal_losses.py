"""Whether today's faster training learns as much as before: losses on held-out examples over several seeds.

    python -m benchmarks.equal_losses --workspace FOLDER
    python -m benchmarks.equal_losses --workspace FOLDER --model FOLDER --raw_data_dir DIR

Without --model, Pocket's model learns Pocket's replies. With it, any chat model learns replies of Synthetic-Persona-Chat, whose
validation file is read from --raw_data_dir. Trains a LoRA (dropout 0.05), then LC++ on the linear merge of two such LoRAs: as this
project trained before (forward hooks, eager attention, masks, nothing compiled, float32), as it trains now in float32, compiled or
not, in mixed precision, and with a frozen base in bfloat16. A seed decides the order of the examples and where the training starts.
Prints the cross-entropy of held-out targets: the mean over seeds, the standard deviation over seeds, and the mean difference to
"earlier" with its standard deviation over seeds.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from statistics import mean, stdev
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the commands do

import torch

from benchmarks.other_ways import MODULES, RANK, calibrated_by_hooks, peft_model, train_earlier
from compositional.adapters.lora import LoraAdapter
from compositional.calibration import LC_PLUS_PLUS, CalibrationSpec
from compositional.core.errors import UserError
from compositional.core.logs import quieten_libraries
from compositional.core.processes import exit_code_of
from compositional.data import Locations, find_dataset
from compositional.data.synthetic_persona_chat import NAME
from compositional.merging import merge
from compositional.models.chat import IGNORED, ChatEncoder, TrainingSequence, instruction
from compositional.models.model import Model
from compositional.training import LoraSettings, OptimizationSettings, TrainingFolders
from compositional.training.batching import Collator
from compositional.training.compilation import missing_compiler
from compositional.training.precision import Precision
from compositional.training.recipes import train_calibration, train_lora
from compositional.training.trainer import target_loss

DROPOUT = 0.05
LEARNING_RATES = {"LoRA": 1e-3, "LC++": 5e-3}


@dataclass(frozen=True)
class Way:
    """How it is trained."""

    earlier: bool = False
    compiled: bool = False
    dtype: str = "float32"
    autocast: bool = False


WAYS = {
    "earlier": Way(earlier=True),
    "now": Way(),
    "now, compiled": Way(compiled=True),
    "now, mixed precision": Way(autocast=True),
    "now, bfloat16 base": Way(dtype="bfloat16", autocast=True),
}


@dataclass(frozen=True)
class Material:
    """A base model, training examples, held-out ones, and the merge that LC++ calibrates."""

    base: Model
    training: list[TrainingSequence]
    held_out: list[TrainingSequence]
    merged: LoraAdapter | None = None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workspace", type=Path, required=True, help="folder for Pocket's data")
    parser.add_argument("--model", default="pocket", help="a folder or a hub id")
    parser.add_argument("--raw_data_dir", type=Path, help="folder with Synthetic-Persona-Chat's validation file")
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS), metavar="WAY")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds")
    parser.add_argument("--updates", type=int, default=20)
    parser.add_argument("--batch", type=int, default=8, help="examples per update")
    options = parser.parse_args()
    if options.model != "pocket" and not options.raw_data_dir:
        parser.error("--model needs --raw_data_dir")
    if "now, compiled" in options.ways and (missing := missing_compiler()):
        parser.error(f"--ways: leave out 'now, compiled': {missing}")
    quieten_libraries()
    material = _material(options)
    first_two = [_train("LoRA", WAYS["now"], material, seed, options)[1] for seed in (100, 101)]
    material = replace(material, merged=merge("linear", first_two, [0.5, 0.5]))
    print(f"{time.strftime('%Y-%m-%d')}, {material.base.name}: {options.updates} updates of {options.batch} examples,")
    print(f"{options.seeds} seeds, {len(material.held_out)} held-out examples, torch {torch.__version__}\n")
    print("| what | way | held-out loss | sd over seeds | difference to earlier | its sd |\n|---|---|---:|---:|---:|---:|")
    for kind in LEARNING_RATES:
        earlier: list[float] = []
        for name in options.ways:
            losses = [_train(kind, WAYS[name], material, seed, options)[0] for seed in range(options.seeds)]
            earlier = losses if WAYS[name].earlier else earlier
            print(f"| {kind} | {name} | {mean(losses):.4f} | {_sd(losses)} | {_differences(losses, earlier)} |", flush=True)


def _differences(losses: list[float], earlier: list[float]) -> str:
    if not earlier or losses is earlier:
        return "— | —"
    differences = [one - other for one, other in zip(losses, earlier, strict=True)]
    return f"{mean(differences):+.4f} | {_sd(differences)}"


def _sd(values: list[float]) -> str:
    return f"{stdev(values):.4f}" if len(values) > 1 else "—"


def _material(options: argparse.Namespace) -> Material:
    base = Model(options.model)
    if options.model == "pocket":
        dataset = find_dataset("pocket_replies", Locations(options.workspace / "data", None))
    else:
        dataset = find_dataset(NAME, Locations(options.raw_data_dir, options.raw_data_dir))
    encoder, text = ChatEncoder(base.tokenizer), instruction(dataset.tasks)
    examples = dataset.read("validation")
    Random(0).shuffle(examples)
    wanted, held_out = options.updates * options.batch, 64
    if len(examples) < wanted + held_out:
        raise UserError(f"{dataset.name} has {len(examples)} validation examples, fewer than {wanted + held_out}")
    sequences = [encoder.training_sequence(text, one, 256, False) for one in examples[: wanted + held_out]]
    return Material(base, sequences[:wanted], sequences[wanted:])


def _train(kind: str, way: Way, material: Material, seed: int, options: argparse.Namespace) -> tuple[float, LoraAdapter | None]:
    """The held-out loss, in nats per target token, and the trained LoRA."""
    torch.manual_seed(seed)
    base = material.base.load(getattr(torch, way.dtype))
    settings = _settings(kind, way, seed, options)
    adapter = None
    with tempfile.TemporaryDirectory() as folder:
        folders = TrainingFolders(Path(folder) / "checkpoints", Path(folder) / "logs")
        if way.earlier:
            sequences = Random(seed).sample(material.training, len(material.training))
            model = trained = peft_model(base, DROPOUT) if kind == "LoRA" else base
            if kind != "LoRA":
                trained = calibrated_by_hooks(base, material.merged, seed)
            train_earlier(model, trained, sequences, settings)
        elif kind == "LoRA":
            lora = LoraSettings(RANK, RANK, DROPOUT, MODULES)
            adapter, _ = train_lora(base, "", material.training, 0, lora, settings, folders, f"{kind}, seed {seed}")
        else:
            spec = CalibrationSpec(LC_PLUS_PLUS, for_each_component=True)
            train_calibration(base, [material.merged], spec, material.training, 0, settings, folders, f"{kind}, seed {seed}")
    return _held_out_loss(base, material.held_out, way.autocast), adapter


@torch.no_grad()
def _held_out_loss(base: Any, sequences: list[TrainingSequence], autocast: bool) -> float:
    base.eval()
    total = tokens = 0.0
    for start in range(0, len(sequences), 8):
        batch = Collator(0)(sequences[start : start + 8])
        labels = batch.pop("labels")
        count = (labels != IGNORED).sum().item()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            total += target_loss(base(**batch), labels).item() * count
        tokens += count
    return total / tokens


def _settings(kind: str, way: Way, seed: int, options: argparse.Namespace) -> OptimizationSettings:
    return OptimizationSettings(
        learning_rate=LEARNING_RATES[kind],
        epochs=1.0,
        effective_batch_size=options.batch,
        device_batch_size=None,
        device_batch_tokens=None,
        lr_scheduler_type="constant",
        warmup_steps=0,
        precision=Precision(way.dtype, way.autocast),
        torch_compile="on" if way.compiled else "off",
        gradient_checkpointing=False,
        seed=seed,
        data_seed=seed,
        save_steps=10_000,
        report_to=["none"],
    )


if __name__ == "__main__":
    sys.exit(exit_code_of(main))
