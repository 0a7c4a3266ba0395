"""What is predicted in the benchmarks: Pocket's compositional sub-tasks, and real reply prompts."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from compositional.adapters.lora import LoraAdapter, LoraFactors
from compositional.adapters.peft_folder import StoredAdapter, read_adapter, write_adapter
from compositional.core.errors import UserError
from compositional.core.workspace import Workspace
from compositional.data import Example, Locations, find_dataset
from compositional.data.synthetic_persona_chat import NAME, SOURCE
from compositional.merging import merge
from compositional.models.chat import ChatEncoder, instruction
from compositional.models.model import Model
from compositional.pocket.lexicon import LANGUAGES, TONES
from compositional.prediction import PredictionSettings

ROOT = Path(__file__).parents[1]
MAIN_SETS = ("pocket_dialogs", "pocket_replies")
VARIANTS = (*LANGUAGES, *TONES)
SUB_TASKS = [(source, variant) for source in MAIN_SETS for variant in VARIANTS]
MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
RANK = 16


@dataclass(frozen=True)
class Job:
    """Examples of one set, to be answered with one adapter or none."""

    name: str
    base: Model
    adapter: StoredAdapter | None
    instruction: str
    examples: list[Example]
    settings: PredictionSettings

    @cached_property
    def prompts(self) -> list[list[int]]:
        """Token ids of the examples' prompts."""
        encoder = ChatEncoder(self.base.tokenizer)
        longest = self.settings.max_prompt_length
        return [encoder.prompt(self.instruction, example.input, longest).ids for example in self.examples]


def pocket_jobs(workspace: Path, sub_tasks: int) -> list[Job]:
    """The test sets of the first compositional sub-tasks on Pocket, each with its merge of `make_pocket_adapters`."""
    base = Model("pocket")
    jobs = []
    for source, variant in SUB_TASKS[:sub_tasks]:
        dataset = find_dataset(f"{source}_{variant}", Locations(workspace / "data", None))
        adapter = StoredAdapter(_pocket_merge(workspace, source, variant))
        settings = _settings(base, max_new_tokens=64)
        jobs.append(Job(dataset.name, base, adapter, instruction(dataset.tasks), dataset.read("test"), settings))
    return jobs


def make_pocket_adapters(workspace: Path, sub_tasks: int) -> None:
    """Train the single-task adapters of the first sub-tasks (short), and merge them linearly. Finished ones are kept."""
    import run_experiment

    chosen = SUB_TASKS[:sub_tasks]
    singles = dict.fromkeys([*(source for source, _ in chosen), *(_sentences(variant) for _, variant in chosen)])
    for name in singles:
        train = f"--experiment_name {name} --dataset {name} --stored_model_name {name} --do_train --max_train_examples 1600"
        run_experiment.run([f"@{ROOT / 'configs' / 'pocket.txt'}", *shlex.split(train), "--workspace", str(workspace)])
    for source, variant in chosen:
        parts = [read_adapter(Workspace(workspace).stored_model(name)) for name in (source, _sentences(variant))]
        write_adapter(_pocket_merge(workspace, source, variant), merge("linear", parts, [0.5, 0.5]), "float32")


def _sentences(variant: str) -> str:
    return f"pocket_sentences_{variant}"


def _pocket_merge(workspace: Path, source: str, variant: str) -> Path:
    return workspace / "merges" / f"{source}_{variant}"


def reply_job(base: Model, raw: Path, count: int, adapter: Path | None, max_new_tokens: int = 24) -> Job:
    """Real turns to reply to, from the validation file of Synthetic-Persona-Chat; raises UserError when there are too few."""
    dataset = find_dataset(NAME, Locations(raw, raw))
    examples = dataset.read("validation")
    if count > len(examples):
        raise UserError(f"--prompts {count}: {raw / SOURCE.files['validation']} gives {len(examples)}")
    stored = StoredAdapter(adapter) if adapter else None
    return Job(NAME, base, stored, instruction(dataset.tasks), examples[:count], _settings(base, max_new_tokens))


def write_random_adapter(base: Model, folder: Path) -> LoraAdapter:
    """A random LoRA for all linear modules of the layers, strong enough to change most answers."""
    generator = torch.Generator().manual_seed(0)
    factors = {
        path: LoraFactors(
            torch.randn(RANK, d_in, generator=generator) / d_in**0.5, torch.randn(d_out, RANK, generator=generator) / 100, 1.0
        )
        for path, (d_out, d_in) in base.linear_shapes.items()
        if path.endswith(MODULES)
    }
    adapter = LoraAdapter(folder.name, base.name, factors)
    write_adapter(folder, adapter, "float32")
    return adapter


def _settings(base: Model, max_new_tokens: int) -> PredictionSettings:
    """Float32. The backend and its batch size are the row's."""
    longest = min(1000, (base.longest_sequence or 2048) - max_new_tokens)
    return PredictionSettings("", max_new_tokens, longest, 0, "float32")
