"""The flags of `demo.py`, and the experiments that it shows, checked before a model is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

from compositional.calibration import biased_modules
from compositional.core.errors import Mistakes, UserError
from compositional.core.flags import Range, build_parser, flag, parse, wrong_values
from compositional.core.recorded import read_whole_record
from compositional.core.workspace import Workspace
from compositional.experiment.finished import adapters_of_finished, finished_experiment, results_by_experiment
from compositional.experiment.plan import Plan
from compositional.formats.gguf import QUANTIZED
from compositional.formats.gguf_forms import gguf_form, pre_tokenizer
from compositional.prediction import LLAMA_CPP, TRANSFORMERS

if TYPE_CHECKING:
    from compositional.adapters.peft_folder import StoredAdapter
    from compositional.models.model import Model

# Methods as results.json names them, with the paper's names, in the order of its table. Others go by the name in results.json.
LABELS = {
    "zero_shot": "Zero-shot",
    "lora": "Main-task LoRA",
    "auxiliary_lora": "Auxiliary-task LoRA",
    "in_context_learning": "In-context learning",
    "peft_linear": "Linear merge",
    "multi_step": "Multi-step LoRA usage",
    "joint_expert": "Joint-expert LoRA",
    "learnable_calibration": "Learnable Calibration",
    "learnable_calibration_pp": "Learnable Calibration++",
}
MOST_BY_DEFAULT = 12  # each loads up to one model


@dataclass
class DemoArguments:
    """Which experiments the page shows, and where it is served."""

    experiments: list[str] = flag(
        (),
        "what",
        f"finished experiments to show, in this order; default: those of the workspace that compose tasks, up to {MOST_BY_DEFAULT}",
        is_name=True,
    )
    prediction_backend: str = flag(
        TRANSFORMERS, "machine", "what generates the answers; llama_cpp is the engine of devices", choices=(TRANSFORMERS, LLAMA_CPP)
    )
    port: int = flag(
        8642, "machine", "port of this machine (127.0.0.1) that serves the page; 0: any that is free", range=Range(0, at_most=65535)
    )
    workspace: str = flag(".", "machine", "folder that holds output and stored_models")


@dataclass(frozen=True)
class ShownExperiment:
    """A finished experiment, the adapters that it answers with (one per step), and its method and cost as recorded."""

    plan: Plan
    adapters: list[StoredAdapter]
    method: str
    passes: int
    extra_parameters: int
    extra_bytes: int

    @property
    def name(self) -> str:
        """The experiment's name."""
        return self.plan.arguments.experiment_name

    @property
    def label(self) -> str:
        """The method's name."""
        return LABELS.get(self.method, self.method)


@dataclass(frozen=True)
class DemoPlan:
    """Experiments that can answer."""

    arguments: DemoArguments
    experiments: list[ShownExperiment]


def parse_demo_arguments(argv: list[str]) -> tuple[DemoArguments, list[str]]:
    """Parse a command line of `demo.py`; see `flags.parse`."""
    description = "Serve a page on this machine on which finished experiments answer one request side by side."
    return parse(build_parser(DemoArguments, "demo.py", description), DemoArguments, argv)


def make_demo_plan(arguments: DemoArguments, parsing_mistakes: Sequence[str] = ()) -> DemoPlan:
    """Check a command; raises UserError with one line per mistake."""
    mistakes = Mistakes(parsing_mistakes)
    mistakes += wrong_values(arguments)
    if mistakes:
        raise UserError(*mistakes)
    workspace = Workspace(Path(arguments.workspace))
    bases: dict[str, Model] = {}
    names = list(dict.fromkeys(arguments.experiments)) or _experiments_of(workspace)
    shown = [mistakes.attempt(_shown, name, workspace, bases, arguments.prediction_backend) for name in names]
    if mistakes:
        raise UserError(*dict.fromkeys(mistakes))
    return DemoPlan(arguments, shown)


def _experiments_of(workspace: Workspace) -> list[str]:
    """The finished experiments that compose tasks, in the paper's order; raises UserError for none, and for too many."""
    results = results_by_experiment(workspace)
    found = [name for name, one in results.items() if one.get("arguments", {}).get("secondary_task")]
    if not found:
        raise UserError(
            f"{workspace.root / 'output'} has no finished experiment that composes tasks: make quickstart makes eight; "
            "--workspace names another folder"
        )
    if len(found) > MOST_BY_DEFAULT:
        raise UserError(
            f"{workspace.root / 'output'} has {len(found)} finished experiments that compose tasks, too many to load unasked: "
            f"choose some with --experiments, such as {' '.join(found[:3])}"
        )
    order = list(LABELS)
    return sorted(found, key=lambda name: order.index(results[name]["method"]) if results[name]["method"] in LABELS else len(order))


def _shown(name: str, workspace: Workspace, bases: dict[str, Model], backend: str) -> ShownExperiment:
    plan = finished_experiment(name, workspace, "--experiments")
    # Experiments with one base model share the object, which has read its tokenizer and its hash.
    base = bases.setdefault(plan.base.name, plan.base)
    plan = replace(plan, base=base, arguments=replace(plan.arguments, prediction_backend=backend, llama_cpp_url=None))
    adapters, dtype = adapters_of_finished(plan, "--experiments"), plan.arguments.prediction_dtype
    if backend == LLAMA_CPP:
        gguf_form(base).check_places(biased_modules(adapters))
        pre_tokenizer(base.tokenizer)
    elif dtype in QUANTIZED:
        raise UserError(f"--experiments {name} answers in {dtype}, which is llama.cpp's: add --prediction_backend {LLAMA_CPP}")
    from compositional.experiment.results import Cost

    recorded = read_whole_record(workspace.results(name), method=str, cost={one.name: int for one in fields(Cost)})
    cost = recorded["cost"]
    return ShownExperiment(
        plan,
        adapters,
        recorded["method"],
        cost["inferences_per_example"],
        cost["extra_parameters"],
        cost["extra_bytes"],
    )
