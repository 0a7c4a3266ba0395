"""The flags of `export.py`, and what a call of it will write, checked before anything is written."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compositional.adapters.peft_folder import StoredAdapter
from compositional.core.errors import Mistakes, UserError
from compositional.core.files import lies_in
from compositional.core.flags import COUNT, build_parser, flag, parse, wrong_values
from compositional.core.recorded import read_recorded
from compositional.core.workspace import Workspace
from compositional.experiment.arguments import MULTI_STEP, ZERO_SHOT
from compositional.experiment.finished import adapters_of_finished, finished_experiment
from compositional.experiment.plan import Plan
from compositional.formats.gguf import QUANTIZED
from compositional.formats.gguf_base import GgufBase
from compositional.formats.gguf_forms import Form, gguf_form, pre_tokenizer

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig

PEFT, MERGED, GGUF = "peft", "merged", "gguf"
RECORD = "export.json"


@dataclass
class ExportArguments:
    """What is exported, and how."""

    experiment_name: str | None = flag(None, "what", "experiment whose adapter or model is exported (required)", is_name=True)
    to: str = flag(
        MERGED,
        "what",
        "merged: a model of transformers with everything folded in; peft: an adapter of PEFT, for methods without biases; gguf: "
        "base model, adapter and biases as files of llama.cpp",
        choices=(MERGED, PEFT, GGUF),
    )
    dtype: str = flag(
        "float16",
        "what",
        "precision of what is written; q8_0 and q4_1 are of gguf alone, for the base model's matrices",
        choices=("float32", "bfloat16", "float16", *QUANTIZED),
    )
    base_gguf: str | None = flag(
        None,
        "what",
        "a GGUF file of the base model, in any precision, that the device has already (--to gguf): the base is then not written",
    )
    compact_rank: int | None = flag(
        None,
        "what",
        "rank that the adapter is cut to by SVD (--to peft or gguf); its error is recorded; default: exact",
        range=COUNT,
    )
    overwrite: bool = flag(False, "what", "replace an earlier export of the experiment to this format")
    workspace: str = flag(".", "machine", "folder that holds output, stored_models and exports")


def parse_export_arguments(argv: list[str]) -> tuple[ExportArguments, list[str]]:
    """Parse a command line of `export.py`; see `flags.parse`."""
    description = (
        "Export what an experiment answers with: a merged model that any tool loads, a PEFT adapter, or GGUF files for llama.cpp."
    )
    return parse(build_parser(ExportArguments, "export.py", description), ExportArguments, argv)


@dataclass(frozen=True)
class ExportPlan:
    """An export that is possible: the finished experiment, and where its files go."""

    arguments: ExportArguments
    experiment: Plan

    @cached_property
    def adapters(self) -> list[StoredAdapter]:
        """What the experiment answers with beside the base model, one adapter per step; see `adapters_of_finished`."""
        return adapters_of_finished(self.experiment)

    @cached_property
    def biases(self) -> dict[str, torch.Tensor]:
        """A Learnable Calibration's bias (d_out) of each module that has one."""
        from compositional.calibration.parameters import read_biases

        return {path: bias for one in self.adapters for path, bias in read_biases(one.folder, one.shapes).items()}

    @cached_property
    def configuration(self) -> PretrainedConfig:
        """The merged model's; raises UserError when its architecture has no place for a bias."""
        from compositional.formats.configuration import configuration_with_places

        return configuration_with_places(self.experiment.base, self.biases)

    @cached_property
    def gguf_base(self) -> GgufBase | None:
        """The user's own file of the base model."""
        return GgufBase(Path(self.arguments.base_gguf)) if self.arguments.base_gguf else None

    @cached_property
    def form(self) -> Form:
        """As what the model is written for llama.cpp; raises UserError for what has no place there, and for a wrong --base_gguf."""
        base = self.experiment.base
        form = self.gguf_base.form(base) if self.gguf_base else gguf_form(base)
        form.check_places(self.biases)
        return form

    @cached_property
    def difference_of_base(self) -> float | None:
        """How far the weights of --base_gguf are from the base model's; raises UserError for another model's."""
        return self.gguf_base.difference(self.experiment.base, self.form) if self.gguf_base else None

    @property
    def folder(self) -> Path:
        """Where the export is written."""
        return Path(self.arguments.workspace) / "exports" / self.arguments.experiment_name / self.arguments.to

    @property
    def is_there(self) -> bool:
        """Whether there is nothing to do: a plan that was made, and is not to replace the folder, is of the same export."""
        return self.folder.exists() and not self.arguments.overwrite

    @cached_property
    def settings(self) -> dict[str, Any]:
        """What decides the export's content, for its record."""
        arguments = self.arguments
        base_gguf = {"path": arguments.base_gguf, **digest_of(self.gguf_base.path)} if self.gguf_base else None
        return {
            "experiment": arguments.experiment_name,
            "to": arguments.to,
            "dtype": arguments.dtype,
            "compact_rank": arguments.compact_rank,
            "base_gguf": base_gguf,
            "hash_of_base_model": self.experiment.base.identity,
            "hashes_of_adapters": [one.hash for one in self.adapters],
        }

    @property
    def is_done(self) -> bool:
        """Whether an earlier call has exported the same, and its files are as they were written."""
        record = read_recorded(self.folder / RECORD)
        files = {self.folder / name: digest for name, digest in record.get("files", {}).items()}
        unchanged = all(path.is_file() and digest_of(path) == found for path, found in files.items())
        return record.get("settings") == self.settings and unchanged


def digest_of(path: Path) -> dict[str, Any]:
    """A file's bytes and SHA-256."""
    with open(path, "rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def make_export_plan(
    arguments: ExportArguments, parsing_mistakes: Sequence[str] = (), files_of_flags: Sequence[Path] = ()
) -> ExportPlan:
    """Check a command; raises UserError with one line per mistake."""
    mistakes = Mistakes(parsing_mistakes)
    mistakes.when(not arguments.experiment_name, "--experiment_name is missing")
    mistakes += wrong_values(arguments)
    mistakes.when(
        bool(arguments.compact_rank) and arguments.to == MERGED,
        "--compact_rank needs --to peft or gguf: a merged model has no ranks",
    )
    mistakes.when(arguments.dtype in QUANTIZED and arguments.to != GGUF, f"--dtype {arguments.dtype} needs --to gguf")
    mistakes.when(bool(arguments.base_gguf) and arguments.to != GGUF, "--base_gguf needs --to gguf")
    mistakes.when(
        bool(arguments.base_gguf) and arguments.dtype in QUANTIZED,
        f"--dtype {arguments.dtype} contradicts --base_gguf: it is for the base model's matrices, and adapters are float16 then",
    )
    if mistakes:
        raise UserError(*mistakes)
    plan = ExportPlan(arguments, finished_experiment(arguments.experiment_name, Workspace(Path(arguments.workspace))))
    method, name = plan.experiment.method, arguments.experiment_name
    mistakes.when(
        method == MULTI_STEP and arguments.to != GGUF,
        f"--to {arguments.to}: {name} answers in several steps, each with an adapter of its own: --to gguf exports them all",
    )
    mistakes.attempt(lambda: plan.adapters)
    mistakes.when(
        arguments.to == PEFT and method == ZERO_SHOT, f"--to peft: {name} answers with the base model alone, and has no adapter"
    )
    if not mistakes:
        mistakes.when(
            arguments.to == PEFT and plan.adapters[0].has_biases,
            f"--to peft: {name} is a Learnable Calibration, and PEFT's LoRA has no place for its biases: use --to merged",
        )
        if arguments.to == MERGED:
            mistakes.attempt(lambda: plan.configuration)
    if arguments.to == GGUF and not mistakes:
        mistakes.attempt(lambda: plan.difference_of_base if plan.gguf_base else plan.form)
        if not plan.gguf_base:
            mistakes.attempt(pre_tokenizer, plan.experiment.base.tokenizer)
    if not mistakes and arguments.to != PEFT and not arguments.base_gguf:
        bytes_of_number = {"float32": 4, "bfloat16": 2, "float16": 2}.get(arguments.dtype, 1)
        mistakes.attempt(plan.experiment.workspace.check_space, plan.experiment.base.parameter_count * bytes_of_number)
    base = plan.experiment.base
    inputs = {f"--base_gguf {path}": Path(path) for path in [arguments.base_gguf] if path}
    inputs |= {f"its base model {base.location}": Path(base.location)} if base.is_local else {}
    inputs |= {f"@{path}": path for path in files_of_flags}
    for what, path in inputs.items():
        inside = arguments.overwrite and lies_in(path, plan.folder)
        mistakes.when(inside, f"{what} lies in {plan.folder}, which --overwrite would replace: move it first")
    if plan.is_there and not mistakes:
        mistakes.when(not plan.is_done, f"{plan.folder} is there already, with other content: --overwrite replaces it")
    if mistakes:
        raise UserError(*mistakes)
    return plan
