"""Seconds per update, tokens per second and peak memory of training, each in a process of its own and in one run.

    python -m benchmarks.training --shape smollm2-135m

Compares, on a randomly initialised model of a published shape: the floor (a frozen base, forward and backward through its
activations, no adapter), LoRA, LC, LC++, a shared LC++ and DAM as this project trains them; the same as it trained them before
(hooks, eager attention, no compilation); the way of a later code base of the paper's authors (batches of 3 padded to 512 tokens,
gradient checkpointing, logits everywhere, float32); and PEFT with transformers' Trainer as its documentation shows. A joint
expert costs what a LoRA costs. Prints a Markdown table. Ratios within one run are what counts: the machine may be noisy.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from benchmarks.machine import heading, row_in_a_process
from benchmarks.other_ways import MODULES, RANK, calibrated_by_hooks, peft_model, train_earlier, train_with_peft
from benchmarks.shapes import SHAPES
from compositional.adapters.lora import LoraAdapter, LoraFactors
from compositional.calibration import LC, LC_PLUS_PLUS, CalibrationSpec
from compositional.core.logs import quieten_libraries
from compositional.merging import merge
from compositional.models.chat import IGNORED, TrainingSequence
from compositional.training import LoraSettings, OptimizationSettings, TrainingFolders
from compositional.training.precision import Precision, resolve_precision
from compositional.training.recipes import SingleTaskExamples, train_calibration, train_lora
from compositional.training.trainer import TargetLossTrainer, train_parameters


@dataclass(frozen=True)
class Way:
    """A row of the table: what is trained, and how. `baseline` names the row whose time its ratio refers to."""

    kind: str
    compiled: bool = True
    dropout: float = 0.0
    train_dtype: str = "auto"
    bf16: bool = False
    baseline: str = "floor, compiled"

    @property
    def is_plain(self) -> bool:
        """Whether it is none of this project's present ways."""
        return self.kind in TRAIN


WAYS = {
    "floor": Way("floor", compiled=False, baseline="floor"),
    "floor, compiled": Way("floor"),
    "LC": Way(LC),
    "LC++": Way(LC_PLUS_PLUS),
    "shared LC++ (two merges)": Way("shared"),
    "DAM": Way("dam"),
    "DAM on composed targets": Way("dam_composed"),
    "LoRA": Way("lora"),
    "LoRA, dropout 0.05": Way("lora", dropout=0.05),
    "LC, not compiled": Way(LC, compiled=False, baseline="floor"),
    "LC++, not compiled": Way(LC_PLUS_PLUS, compiled=False, baseline="floor"),
    "LoRA, not compiled": Way("lora", compiled=False, baseline="floor"),
    "LoRA, dropout 0.05, not compiled": Way("lora", compiled=False, dropout=0.05, baseline="floor"),
    "earlier: LC++": Way("earlier " + LC_PLUS_PLUS, train_dtype="float32", baseline="floor"),
    "earlier: LoRA, dropout 0.05": Way("earlier lora", dropout=0.05, train_dtype="float32", baseline="floor"),
    "earlier: LC++, --bf16": Way("earlier " + LC_PLUS_PLUS, bf16=True, baseline="floor"),
    "earlier: LoRA, dropout 0.05, --bf16": Way("earlier lora", dropout=0.05, bf16=True, baseline="floor"),
    "PEFT and Trainer": Way("peft", dropout=0.05, train_dtype="float32", baseline="floor"),
    "padded to 512, checkpointing": Way("padded", dropout=0.05, train_dtype="float32", baseline="floor"),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=sorted(SHAPES), default="smollm2-135m")
    parser.add_argument("--rows", nargs="+", choices=list(WAYS), default=list(WAYS), metavar="ROW")
    parser.add_argument("--batch", type=int, default=16, help="examples per update")
    parser.add_argument("--length", type=int, default=96, help="tokens of the longest example")
    parser.add_argument("--updates", type=int, default=5, help="updates per row; the first is not timed")
    parser.add_argument("--train_dtype", choices=("auto", "float32", "bfloat16", "mixed"), default="auto", help="of today's ways")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        quieten_libraries()
        print(json.dumps(measured(WAYS[options.child], options)))
        return 0
    rows = {name: _in_a_process(name, options) for name in options.rows}
    print(f"\n{heading()}: {options.shape}, {options.batch} examples of")
    rates = {name: product_rate(options, getattr(torch, name)) for name in ("float32", "bfloat16")}
    said = ", ".join(f"{rate:,.0f} GFLOP/s in {name}" for name, rate in rates.items())
    print(f"at most {options.length} tokens per update; its matrix products: {said}\n")
    print("| what | precision | s/update | of its floor | tokens/s | first update, s | peak memory, GB |")
    print("|---|---|---:|---:|---:|---:|---:|")
    for name, row in rows.items():
        floor = rows.get(WAYS[name].baseline)
        ratio = f"{row['seconds'] / floor['seconds']:.2f}" if floor else "—"
        print(
            f"| {name} | {row['precision']} | {row['seconds']:.2f} | {ratio} | {row['tokens'] / row['seconds']:,.0f} | "
            f"{row['first']:.1f} | {row['memory']:.2f} |",
            flush=True,
        )
    return 0


def _in_a_process(name: str, options: argparse.Namespace) -> dict[str, Any]:
    sizes = [f"--{key}={getattr(options, key)}" for key in ("shape", "batch", "length", "updates", "train_dtype")]
    row = row_in_a_process(name, ["benchmarks.training", "--child", name, *sizes])
    print(f"{name}: {row['seconds']:.2f} s", file=sys.stderr, flush=True)
    return row


def measured(way: Way, options: argparse.Namespace) -> dict[str, Any]:
    """Train a few updates; seconds are the median of all but the first."""
    base = _random_base(options.shape)
    parameters = sum(module.weight.numel() for module in base.modules() if isinstance(module, nn.Linear))
    is_fixed = way.bf16 or way.train_dtype != "auto"
    train_dtype = way.train_dtype if is_fixed else options.train_dtype
    precision = resolve_precision(train_dtype, way.bf16 or train_dtype == "mixed", parameters)
    attention = "sdpa" if way.compiled and not way.is_plain else "eager"
    base.set_attn_implementation(attention)
    base = base.to(device=_device(), dtype=getattr(torch, precision.weights)).requires_grad_(False)
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    sequences = _sequences(options, way)
    with tempfile.TemporaryDirectory() as folder:
        folders = TrainingFolders(Path(folder) / "checkpoints", Path(folder) / "logs")
        times = TRAIN.get(way.kind, _train_ours)(way, base, sequences, _settings(way, precision, options.batch), folders)
    gaps = sorted(after - start for start, after in pairwise(times[1:]))
    return {
        "seconds": gaps[len(gaps) // 2],
        "first": times[1] - times[0],
        "tokens": sum(len(one.ids) for one in sequences) / options.updates,
        "precision": str(precision),
        "memory": _peak_memory() / 1e9,
    }


def _random_base(shape: str) -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SHAPES[shape], tie_word_embeddings=True, bos_token_id=None, eos_token_id=1))
    return model.eval()


def _sequences(options: argparse.Namespace, way: Way) -> list[TrainingSequence]:
    """Examples of half to all of the length, the last quarter of each a target."""
    random = Random(0)
    sequences = []
    for _ in range(options.batch * options.updates):
        length = random.randint(options.length // 2, options.length)
        ids, target = [random.randrange(300, 2000) for _ in range(length)], length // 4
        sequences.append(TrainingSequence(ids, [IGNORED] * (length - target) + ids[-target:], truncated=False))
    return sequences


def _settings(way: Way, precision: Precision, batch: int) -> OptimizationSettings:
    return OptimizationSettings(
        learning_rate=1e-3,
        epochs=1.0,
        effective_batch_size=batch,
        device_batch_size=None,
        device_batch_tokens=None,
        lr_scheduler_type="constant",
        warmup_steps=0,
        precision=precision,
        torch_compile="on" if way.compiled else "off",
        gradient_checkpointing=False,
        seed=0,
        data_seed=0,
        save_steps=10_000,
        report_to=["none"],
    )


def _train_ours(
    way: Way, base: Any, sequences: list[TrainingSequence], settings: OptimizationSettings, folders: TrainingFolders
) -> list[float]:
    """As run_experiment.py trains. Returns the times of the start and of the start of each update."""
    times = [time.monotonic()]
    original = TargetLossTrainer.training_step

    def training_step(self: TargetLossTrainer, *inputs: Any, **more: Any) -> torch.Tensor:
        times.append(time.monotonic())
        return original(self, *inputs, **more)

    TargetLossTrainer.training_step = training_step
    merges = [_random_adapter(base, seed) for seed in range(2)]
    both = merge("linear", merges, [0.5, 0.5])
    spec = CalibrationSpec(LC_PLUS_PLUS if way.kind == "shared" else way.kind, for_each_component=True)
    if way.kind == "floor":
        train_parameters(_Floor(base), base, sequences, 0, settings, folders, "floor")
    elif way.kind == "lora":
        train_lora(base, "", sequences, 0, LoraSettings(RANK, RANK, way.dropout, MODULES), settings, folders, "lora")
    elif way.kind in ("dam", "dam_composed"):
        numbered = [replace(one, merge_index=number % 2) for number, one in enumerate(sequences)]
        examples = SingleTaskExamples(base, sequences if way.kind == "dam_composed" else numbered, 0, settings, folders, way.kind)
        merge(way.kind, merges, [0.5, 0.5], {"learning_rate": 1e-3}, examples)
    elif way.kind == "shared":
        numbered = [replace(one, merge_index=number % 2) for number, one in enumerate(sequences)]
        train_calibration(base, [both, both], spec, numbered, 0, settings, folders, "shared")
    else:
        train_calibration(base, [both], spec, sequences, 0, settings, folders, way.kind)
    return [*times, time.monotonic()]


class _Floor(nn.Module):
    """A frozen base and one trained vector that is added to its embeddings, so that gradients go through all activations."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.config, self._base = base.config, (base,)
        self.added = nn.Parameter(torch.zeros(base.config.hidden_size))
        base.get_input_embeddings().register_forward_hook(lambda module, inputs, output: output + self.added.to(output.dtype))

    def forward(self, **inputs: Any) -> Any:
        return self._base[0](**inputs)


def _random_adapter(base: nn.Module, seed: int) -> LoraAdapter:
    generator = torch.Generator().manual_seed(seed)
    factors = {
        path: LoraFactors(
            torch.randn(RANK, module.in_features, generator=generator) / module.in_features**0.5,
            torch.randn(module.out_features, RANK, generator=generator) / 100,
            1.0,
        )
        for path, module in base.named_modules()
        if isinstance(module, nn.Linear) and "lm_head" not in path
    }
    return LoraAdapter(f"random{seed}", "", factors)


def _train_earlier(
    way: Way, base: Any, sequences: list[TrainingSequence], settings: OptimizationSettings, folders: TrainingFolders
) -> list[float]:
    if way.kind == "earlier lora":
        model = peft_model(base, way.dropout)
        return train_earlier(model, model, sequences, settings)
    merged = merge("linear", [_random_adapter(base, seed) for seed in range(2)], [0.5, 0.5])
    return train_earlier(base, calibrated_by_hooks(base, merged), sequences, settings)


def _train_with_peft(
    way: Way, base: Any, sequences: list[TrainingSequence], settings: OptimizationSettings, folders: TrainingFolders
) -> list[float]:
    return train_with_peft(base, way.dropout, sequences, settings, folders, 512 if way.kind == "padded" else None)


TRAIN = {
    "earlier lora": _train_earlier,
    "earlier " + LC_PLUS_PLUS: _train_earlier,
    "peft": _train_with_peft,
    "padded": _train_with_peft,
}


def product_rate(options: argparse.Namespace, dtype: torch.dtype) -> float:
    """GFLOP/s of a matrix product of the model's own shape."""
    hidden, inner = SHAPES[options.shape]["hidden_size"], SHAPES[options.shape]["intermediate_size"]
    x = torch.randn(options.batch * options.length, hidden, dtype=dtype, device=_device())
    weight = torch.randn(inner, hidden, dtype=dtype, device=_device())
    functional.linear(x, weight)
    start, count = time.monotonic(), 0
    while time.monotonic() - start < 2:
        functional.linear(x, weight)
        count += 1
        if torch.cuda.is_available():
            torch.cuda.synchronize()
    return 2 * x.shape[0] * hidden * inner * count / (time.monotonic() - start) / 1e9


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _peak_memory() -> int:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    sys.exit(main())
