"""Throughput and memory of training, calibration and prediction on a randomly initialised model: `make gpu-check` runs it on a GPU.

    python -m benchmarks.real_size --shape llama-3.2-1b

The model has the published shape and no trained weights, which changes no figure here: prompts and answers have fixed lengths.
Training's tokens per second are those of the median update, so that the first one's start and compiling show in the seconds alone.
Prints a Markdown table. `--shape tiny` goes through the same code in a minute on a CPU.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import nn

from benchmarks.shapes import SHAPES
from compositional.adapters.peft_folder import StoredAdapter, write_adapter
from compositional.calibration import LC_PLUS_PLUS, CalibrationSpec
from compositional.core.logs import log_to_screen, quieten_libraries
from compositional.core.machine import has_bfloat16, resolve_dtype
from compositional.merging import merge
from compositional.models.chat import IGNORED, TrainingSequence
from compositional.models.model import Model
from compositional.prediction import PROMPTS_AT_A_TIME, PredictionSettings, make_generator
from compositional.prediction.vllm_backend import Engines
from compositional.training import LoraSettings, OptimizationSettings, TrainingFolders, TrainingReport
from compositional.training.compilation import OFF, ON
from compositional.training.precision import Precision
from compositional.training.recipes import train_calibration, train_lora

LORA = LoraSettings(32, 16, 0.05, ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"])


@dataclass(frozen=True)
class Size:
    """How much is computed with a model of a shape."""

    sequences: int
    prompts: int
    length: int = 512
    new_tokens: int = 128
    update: int = 192


BACKENDS = ("transformers", "vllm")
SIZES = {
    "llama-3.2-1b": Size(sequences=960, prompts=1024),
    "tiny": Size(sequences=32, prompts=32, length=128, new_tokens=16, update=8),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=sorted(SIZES), default="llama-3.2-1b")
    parser.add_argument("--backends", nargs="+", choices=BACKENDS, default=BACKENDS)
    arguments = parser.parse_args()
    shape, size = arguments.shape, SIZES[arguments.shape]
    if "vllm" in arguments.backends and not importlib.util.find_spec("vllm"):
        parser.error("vLLM is not installed: --backends transformers measures without it")
    log_to_screen()
    quieten_libraries()
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    with tempfile.TemporaryDirectory() as folder, Engines() as engines:
        base = random_model(shape, Path(folder) / "model")
        lines = training_lines(size, base, Path(folder))
        lines += prediction_lines(size, base, Path(folder), engines, arguments.backends)
    print(f"\n{time.strftime('%Y-%m-%d')}, {device}, torch {torch.__version__}\n")
    print("| what | tokens/s | seconds | peak memory, GiB |\n|---|---:|---:|---:|")
    print("\n".join(lines))
    return 0


def random_model(shape: str, folder: Path) -> Model:
    """A model of a shape, saved with Pocket's tokenizer, whose ids all models of ours have."""
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = Model("pocket").tokenizer
    ends = {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SHAPES[shape], **ends, tie_word_embeddings=True))
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return Model(str(folder))


def training_lines(size: Size, base: Model, folder: Path) -> list[str]:
    """LoRA training and LC++ calibration, in bfloat16 mixed precision with batches of eight on the device; stores the adapters."""
    random = Random(0)
    ids = [[random.randrange(300, 2000) for _ in range(size.length)] for _ in range(size.sequences)]
    prompt = size.length * 3 // 4
    sequences = [TrainingSequence(one, [IGNORED] * prompt + one[prompt:], truncated=False) for one in ids]
    settings = OptimizationSettings(
        learning_rate=5e-5,
        epochs=1.0,
        effective_batch_size=size.update,
        device_batch_size=None,
        device_batch_tokens=None,
        seed=0,
        data_seed=0,
        lr_scheduler_type="cosine",
        warmup_steps=0,
        precision=Precision("bfloat16" if has_bfloat16() else "float32", has_bfloat16()),
        torch_compile=OFF,
        gradient_checkpointing=False,
        save_steps=1000,
        report_to=["none"],
        trainer={},
    )
    tokens = size.sequences * size.length
    lines, place = [], TrainingFolders(folder / "training", folder / "logs")

    def measured(label: str, train: Callable[[nn.Module, OptimizationSettings], tuple[Any, TrainingReport]]) -> Any:
        for compiles in (OFF, ON) if torch.cuda.is_available() else (OFF,):
            model = base.load(torch.float32)
            with Measured(f"{label}, compiled" if compiles == ON else label, tokens) as measured:
                trained, report = train(model, replace(settings, torch_compile=compiles))
            if report.seconds_per_update:
                measured.rate = size.update * size.length / report.seconds_per_update
            lines.append(measured.line)
            shutil.rmtree(place.checkpoints, ignore_errors=True)
        return trained

    adapter = measured(
        "LoRA training, rank 32", lambda model, how: train_lora(model, base.name, sequences, 0, LORA, how, place, "LoRA")
    )
    merged = merge("linear", [replace(adapter, name=name) for name in ("one", "other")], [0.5, 0.5])
    spec = CalibrationSpec(LC_PLUS_PLUS, for_each_component=True, rank=4)
    calibration = measured(
        "LC++ calibration, rank 4",
        lambda model, how: train_calibration(model, [merged], spec, sequences, 0, how, place, "LC++"),
    )
    write_adapter(folder / "adapter", calibration.fold_into(merged), "float16")
    return lines


def prediction_lines(size: Size, base: Model, folder: Path, engines: Engines, backends: list[str]) -> list[str]:
    """Greedy answers with the calibrated merge (rank 68) and without an adapter, by each backend."""
    random = Random(1)
    prompts = [[random.randrange(300, 2000) for _ in range(size.length // 2)] for _ in range(size.prompts)]
    settings = PredictionSettings("", size.new_tokens, size.length, 0, resolve_dtype("auto"))
    lines = []
    for backend in backends:
        for label, adapter in (("rank 68", StoredAdapter(folder / "adapter")), ("no adapter", None)):
            at_a_time = PROMPTS_AT_A_TIME[backend]
            asked = replace(settings, backend=backend, batch_size=at_a_time)
            generator = make_generator(base, adapter, asked, engines, folder / "vllm.log")
            generator.answers(prompts[:2])
            with Measured(f"prediction, {backend}, {label}", size.prompts * size.new_tokens) as measured:
                for start in range(0, size.prompts, at_a_time):
                    generator.answers(prompts[start : start + at_a_time])
            lines.append(measured.line)
            del generator
            engines.close()
    return lines


class Measured:
    """Times a block and notes the device's peak memory; on a GPU, that of all processes as nvidia-smi reports it."""

    def __init__(self, label: str, tokens: int) -> None:
        self.label, self.tokens = label, tokens

    def __enter__(self) -> Measured:
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        self.start = time.monotonic()
        return self

    def __exit__(self, *error: object) -> None:
        self.seconds = time.monotonic() - self.start
        self.rate = self.tokens / self.seconds
        self.peak = self.memory()

    @property
    def line(self) -> str:
        """The row of the table."""
        return f"| {self.label} | {self.rate:,.0f} | {self.seconds:.1f} | {self.peak} |"

    def memory(self) -> str:
        """vLLM's processes are not ours: it takes its share of the memory at once, which nvidia-smi shows."""
        if not torch.cuda.is_available():
            return "—"
        if "vllm" not in self.label:
            return f"{torch.cuda.max_memory_allocated() / 2**30:.1f}"
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
        query = ["nvidia-smi", f"--id={visible}", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
        return f"{int(subprocess.run(query, capture_output=True, text=True, check=True).stdout) / 1024:.1f} (its share)"


if __name__ == "__main__":
    sys.exit(main())
