"""What each method costs a device beyond the base model and one LoRA per task: the paper's Table 2, measured from files.

    python -m compositional.report.efficiency                                          the paper's three models, from their
    public shapes
    python -m compositional.report.efficiency --model_name_or_path MODEL ...           any models, from their configurations
    python -m compositional.report.efficiency --adapter stored_models/NAME ...         stored adapters and calibrations, as they are

No weights are downloaded: adapters and calibrations of the right shapes are written to a temporary folder and measured.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from compositional.adapters.peft_folder import CALIBRATION_FILE
from compositional.calibration import LC, LC_PLUS_PLUS, CalibrationSpec
from compositional.core.errors import UserError
from compositional.core.flags import COUNT, build_parser, flag, parse, wrong_values
from compositional.core.hub import use_cache_without_network
from compositional.core.processes import exit_code_of
from compositional.core.recorded import read_whole_record
from compositional.core.tables import aligned
from compositional.experiment.arguments import CALIBRATION, JOINT_EXPERT, MULTI_STEP
from compositional.paper import PAPER_COSTS, PAPER_MODELS, PaperModel

if TYPE_CHECKING:
    from compositional.experiment.plan import Plan

MEBIBYTE = 2**20
MISSING = "—"
JOINT_EXPERT_LABEL, MULTI_STEP_LABEL = "Joint-expert LoRA", "Multi-step LoRA usage"
CALIBRATION_LABELS = {LC: "Learnable Calibration", LC_PLUS_PLUS: "Learnable Calibration++"}

Shapes = dict[str, tuple[int, int]]


@dataclass
class EfficiencyArguments:
    """Of what the table is."""

    model_name_or_path: list[str] = flag((), "what", "models: hub ids, folders or 'pocket'; default: the paper's three, by shape")
    adapter: list[str] = flag((), "what", "folders of stored adapters and calibrations, measured as they are")
    lora_rank: int = flag(32, "what", "rank of the joint-expert LoRA", "arith", range=COUNT)
    calibration_rank: int = flag(4, "what", "rank of LC++", "arith", range=COUNT)
    on_device: str | None = flag(
        None,
        "what",
        "file of `python -m benchmarks.on_device --json FILE`: adds a request's measured time, and its share of two steps'",
    )


@dataclass(frozen=True)
class Measured:
    """Parameters and bytes of a file."""

    parameters: int
    bytes: int

    @classmethod
    def of(cls, path: Path) -> Measured:
        """Read a safetensors file's header and size."""
        from compositional.core.files import count_parameters

        return cls(count_parameters(path), path.stat().st_size)


def shapes_of(model: PaperModel) -> Shapes:
    """(d_out, d_in) of the seven linear modules of each layer."""
    hidden, key_value, feed_forward = model.hidden_size, model.key_value_size, model.feed_forward_size
    attention = {
        "q_proj": (hidden, hidden),
        "k_proj": (key_value, hidden),
        "v_proj": (key_value, hidden),
        "o_proj": (hidden, hidden),
    }
    ffn = {"gate_proj": (feed_forward, hidden), "up_proj": (feed_forward, hidden), "down_proj": (hidden, feed_forward)}
    of_layer = {f"self_attn.{name}": s for name, s in attention.items()} | {f"mlp.{name}": s for name, s in ffn.items()}
    return {f"model.layers.{layer}.{name}": shape for layer in range(model.layers) for name, shape in of_layer.items()}


def measure(shapes: Shapes, lora_rank: int, calibration_rank: int) -> dict[str, Measured]:
    """A joint-expert LoRA, LC and LC++ for modules of these shapes, written in float16 and measured."""
    import torch

    from compositional.adapters.lora import LoraAdapter, LoraFactors
    from compositional.adapters.peft_folder import WEIGHTS_FILE, write_adapter
    from compositional.calibration.parameters import Calibration

    factors = {
        path: LoraFactors(torch.zeros(lora_rank, d_in), torch.zeros(d_out, lora_rank), 0.5)
        for path, (d_out, d_in) in shapes.items()
    }
    with tempfile.TemporaryDirectory() as folder:
        write_adapter(Path(folder), LoraAdapter(JOINT_EXPERT_LABEL, "base", factors), "float16")
        found = {JOINT_EXPERT_LABEL: Measured.of(Path(folder) / WEIGHTS_FILE)}
        for calibration, label in CALIBRATION_LABELS.items():
            spec = CalibrationSpec(calibration, for_each_component=True, rank=calibration_rank)
            found[label] = Measured.of(Calibration(spec, shapes).write(Path(folder), "float16"))
    return found


def label_of(plan: Plan) -> str | None:
    """The table's row of an experiment; None if it has none."""
    by_method = {MULTI_STEP: MULTI_STEP_LABEL, JOINT_EXPERT: JOINT_EXPERT_LABEL}
    return CALIBRATION_LABELS.get(plan.arguments.calibrate) if plan.method == CALIBRATION else by_method.get(plan.method)


@dataclass(frozen=True)
class MeasuredTimes:
    """What `benchmarks.on_device` has measured: by the method's label, a request's seconds and their share of the reference's."""

    measured: str
    methods: dict[str, dict[str, float]]

    @classmethod
    def read(cls, path: Path) -> MeasuredTimes:
        """Raises UserError for another file."""
        if not path.is_file():
            raise UserError(f"--on_device {path}: there is no such file")
        record = read_whole_record(path, measured=str, methods={"*": {"seconds": float, "ratio": float}})
        return cls(record["measured"], record["methods"])

    def of(self, label: str) -> str:
        """Seconds and share."""
        found = self.methods.get(label)
        return f"{found['seconds']:.2f} s ({found['ratio']:.2f}×)" if found else MISSING


def table_of_models(
    models: dict[str, Shapes], lora_rank: int, calibration_rank: int, with_paper: bool, times: MeasuredTimes | None = None
) -> str:
    """A line per method: parameters by model, their mean, mean storage in MiB, and measured time, beside the paper's figures."""
    times_of = (lambda label: (times.of(label),)) if times else (lambda label: ())
    found = {name: measure(shapes, lora_rank, calibration_rank) for name, shapes in models.items()}
    mean = ["mean"] if len(models) > 1 else []
    measured_time = ("time of a request",) if times else ()
    header = ("method", "inferences", *models, *mean, "storage", *measured_time)
    header += ("paper", "paper's storage") if with_paper else ()
    multi_step = (
        MULTI_STEP_LABEL,
        "2×",
        *["0"] * (len(models) + len(mean)),
        "0.00 MiB",
        *times_of(MULTI_STEP_LABEL),
        *(_paper_cost(MULTI_STEP_LABEL) if with_paper else ()),
    )
    lines = [header, multi_step]
    for label in (JOINT_EXPERT_LABEL, *CALIBRATION_LABELS.values()):
        measured = [by_label[label] for by_label in found.values()]
        parameters = [one.parameters for one in measured]
        averages = [f"{sum(parameters) / len(parameters):,.0f}"] if mean else []
        storage = sum(one.bytes for one in measured) / len(measured) / MEBIBYTE
        paper = _paper_cost(label) if with_paper else ()
        lines.append(
            (label, "1×", *(f"{count:,}" for count in parameters), *averages, f"{storage:.3f} MiB", *times_of(label), *paper)
        )
    return aligned(lines) + (f"\nTimes: {times.measured}.\n" if times else "")


def _paper_cost(label: str) -> tuple[str, str]:
    return PAPER_COSTS[label].parameters, PAPER_COSTS[label].storage


def table_of_adapters(folders: list[Path]) -> str:
    """A line per folder: its adapter's parameters and bytes, and its calibration's, where it has one."""
    from compositional.adapters.peft_folder import WEIGHTS_FILE, read_config

    lines = [("adapter", "parameters", "bytes", "calibration's parameters", "calibration's bytes")]
    for folder in folders:
        read_config(folder)
        files = [folder / WEIGHTS_FILE, folder / CALIBRATION_FILE]
        measured = [Measured.of(path) if path.is_file() else Measured(0, 0) for path in files]
        lines.append((folder.name, *(f"{n:,}" for one in measured for n in (one.parameters, one.bytes))))
    return aligned(lines)


def run(argv: list[str]) -> str:
    """The table that a command line asks for; raises UserError for the user's mistakes."""
    from compositional.models.model import Model

    parser = build_parser(
        EfficiencyArguments, "python -m compositional.report.efficiency", "Parameters and storage of each method, from files."
    )
    arguments, mistakes = parse(parser, EfficiencyArguments, argv)
    mistakes += wrong_values(arguments)
    if arguments.adapter and arguments.on_device:
        mistakes.append("--on_device contradicts --adapter: times are of methods, not of files")
    if mistakes:
        raise UserError(*mistakes)
    if arguments.adapter:
        return table_of_adapters([Path(name) for name in arguments.adapter])
    times = MeasuredTimes.read(Path(arguments.on_device)) if arguments.on_device else None
    if not arguments.model_name_or_path:
        models = {model.name: shapes_of(model) for model in PAPER_MODELS}
        return table_of_models(models, arguments.lora_rank, arguments.calibration_rank, with_paper=True, times=times)
    bases = {name: Model(name) for name in arguments.model_name_or_path}
    if not all(base.is_local for base in bases.values()):
        use_cache_without_network()
    models = {}
    for name, base in bases.items():
        base.check_exists()
        models[name] = {path: shape for path, shape in base.linear_shapes.items() if not path.endswith("lm_head")}
    return table_of_models(models, arguments.lora_rank, arguments.calibration_rank, with_paper=False, times=times)


if __name__ == "__main__":
    sys.exit(exit_code_of(lambda: print(run(sys.argv[1:]), end="")))
