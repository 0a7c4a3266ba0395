"""How often vLLM and transformers give the same text in float32, and how close the choice of tokens is where they differ.

    python -m benchmarks.engine_texts --model FOLDER --raw_data_dir DIR --prompts 100

Answers real turns of Synthetic-Persona-Chat by both backends, without an adapter, with a random LoRA, and with random LC and LC++
on top of it. Both round differently, so greedy texts may part where two tokens have almost the same logit. The gap is the
difference of the two highest logits, by transformers; a text that differs has one at its first other token. Prints a Markdown
table.
"""

from __future__ import annotations

import argparse
import gc
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.machine import heading
from benchmarks.prompts import Job, reply_job, write_random_adapter
from compositional.adapters.peft_folder import StoredAdapter, write_adapter
from compositional.calibration import LC, LC_PLUS_PLUS, CalibrationSpec
from compositional.calibration.parameters import Calibration
from compositional.core.errors import UserError
from compositional.core.logs import log_to_screen, quieten_libraries
from compositional.core.processes import exit_code_of
from compositional.models.model import Model
from compositional.models.smollm2 import HUB_ID
from compositional.prediction import PROMPTS_AT_A_TIME, TRANSFORMERS, VLLM, Answer, make_generator
from compositional.prediction.predict import Generator
from compositional.prediction.transformers_backend import TransformersGenerator
from compositional.prediction.vllm_backend import Engines

HIGHEST_RANK = 32  # of all kinds


def run(argv: list[str]) -> None:
    """Compare the backends and print the table; raises UserError for the user's mistakes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=HUB_ID, help="the model's folder or hub id")
    parser.add_argument("--raw_data_dir", type=Path, required=True, help="folder with Synthetic-Persona-Chat's validation file")
    parser.add_argument("--prompts", type=int, default=100)
    parser.add_argument("--max_new_tokens", type=int, default=24)
    options = parser.parse_args(argv)
    if options.prompts < 1 or options.max_new_tokens < 1:
        raise UserError("--prompts and --max_new_tokens: at least 1")
    quieten_libraries()
    job = reply_job(Model(options.model, "--model"), options.raw_data_dir, options.prompts, None, options.max_new_tokens)
    with tempfile.TemporaryDirectory() as folder, Engines(HIGHEST_RANK) as engines:
        kinds = {"none": None} | write_random_kinds(job.base, Path(folder))
        expected = {name: _by_transformers(job, adapter, engines) for name, adapter in kinds.items()}
        served = {name: _answers(_generator(job, adapter, VLLM, engines, Path(folder)), job) for name, adapter in kinds.items()}
    print(f"\n{heading()}: {len(job.prompts)} prompts, up to {options.max_new_tokens} new tokens\n")
    print("| adapter | texts that it changes | equal | differing | largest gap where texts differ | median gap of all positions |")
    print("|---|---:|---:|---:|---:|---:|")
    without = expected["none"][0]
    for name, (answers, gaps) in expected.items():
        changed = sum(one.text != other.text for one, other in zip(answers, without, strict=True))
        print(line(name, changed, answers, served[name], gaps))


def write_random_kinds(base: Model, folder: Path) -> dict[str, StoredAdapter]:
    """A random LoRA, and random LC and LC++ on top of it, as stored adapters."""
    lora = write_random_adapter(base, folder / "lora")
    shapes = {path: (factors.d_out, factors.d_in) for path, factors in lora.factors.items()}
    calibrations = {}
    for method in (LC, LC_PLUS_PLUS):
        calibrations[method] = Calibration(CalibrationSpec(method, for_each_component=True), shapes)
        torch.manual_seed(1)
        for parameter in calibrations[method].parameters():
            torch.nn.init.normal_(parameter, std=0.03)
        write_adapter(folder / method, calibrations[method].fold_into(lora), "float32")
    calibrations[LC].write(folder / LC, "float32")
    names = {"LoRA": "lora", "LoRA and LC": LC, "LoRA and LC++": LC_PLUS_PLUS}
    return {name: StoredAdapter(folder / part) for name, part in names.items()}


def line(name: str, changed: int, expected: list[Answer], served: list[Answer], gaps: list[list[float]]) -> str:
    """A line of the table."""
    parted = [
        of_answer[_first_difference(one.tokens, other.tokens)]
        for one, other, of_answer in zip(expected, served, gaps, strict=True)
        if one.text != other.text
    ]
    largest = f"{max(parted):.1e}" if parted else "—"
    all_gaps = [gap for of_answer in gaps for gap in of_answer]
    return f"| {name} | {changed} | {len(expected) - len(parted)} | {len(parted)} | {largest} | {median(all_gaps):.2f} |"


def _first_difference(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    """The first place where two answers differ; the end of the shorter one if it begins the other."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((place for place, (a, b) in pairs if a != b), min(len(one), len(other)))


def _by_transformers(job: Job, adapter: StoredAdapter | None, engines: Engines) -> tuple[list[Answer], list[list[float]]]:
    """The answers, and the gaps of the two highest logits at each of their positions."""
    generator: Any = _generator(job, adapter, TRANSFORMERS, engines, Path())
    answers = _answers(generator, job)
    gaps = [_gaps(generator, prompt, answer) for prompt, answer in zip(job.prompts, answers, strict=True)]
    del generator
    gc.collect()
    return answers, gaps


def _generator(job: Job, adapter: StoredAdapter | None, backend: str, engines: Engines, folder: Path) -> Generator:
    settings = replace(job.settings, backend=backend, batch_size=PROMPTS_AT_A_TIME[backend])
    return make_generator(job.base, adapter, settings, engines, folder / "vllm.log")


def _answers(generator: Generator, job: Job) -> list[Answer]:
    """In the order of the prompts, which are answered in batches of similar lengths."""
    size = PROMPTS_AT_A_TIME[TRANSFORMERS]
    order = sorted(range(len(job.prompts)), key=lambda place: -len(job.prompts[place]))
    batches = [order[start : start + size] for start in range(0, len(order), size)]
    answers = {
        place: answer
        for batch in batches
        for place, answer in zip(batch, generator.answers([job.prompts[place] for place in batch]), strict=True)
    }
    return [answers[place] for place in range(len(order))]


@torch.inference_mode()
def _gaps(generator: TransformersGenerator, prompt: list[int], answer: Answer) -> list[float]:
    """The gap at each token of an answer, and at the token that ended it, if one did."""
    ids = torch.tensor([[*prompt, *answer.tokens]], device=generator.model.device)
    count = len(answer.tokens) + (not answer.cut_off)
    logits = generator.model(input_ids=ids).logits[0, len(prompt) - 1 :][:count]
    highest = logits.float().topk(2).values
    return (highest[:, 0] - highest[:, 1]).tolist()


def main() -> int:
    """The command; returns its exit code."""
    log_to_screen()
    return exit_code_of(lambda: run(sys.argv[1:]))


if __name__ == "__main__":
    sys.exit(main())
