"""What a device pays for each method, with llama.cpp: seconds, memory and bytes.

    python -m benchmarks.on_device --workspace FOLDER --experiments ZERO_SHOT MULTI_STEP LC_PLUS_PLUS LC_PLUS_PLUS@32

Each finished experiment is loaded in a process of its own, as GGUF files, and all answer the same inputs of the test split, each in
turn, so that what else the machine does falls on all alike. `NAME@R` cuts an experiment's merge to rank R. An answer has
`--new_tokens` tokens, whatever they say; multi-step usage makes as many in each step. Prints a Markdown table: seconds to load,
tokens per second of prompt and answer, seconds per request, the median over requests of the ratio to `--reference`, peak memory,
and bytes of the base model and beside it.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.finished import Finished
from benchmarks.machine import heading
from compositional.core.errors import UserError
from compositional.core.files import write_json
from compositional.core.processes import exit_code_of
from compositional.core.tables import aligned
from compositional.report.efficiency import label_of

if TYPE_CHECKING:
    from compositional.models.chat import ChatEncoder

DTYPES = ("float32", "float16", "bfloat16", "q8_0", "q4_1")


@dataclass
class Step:
    """One pass of a request: its adapter's number, or None, and what it is asked."""

    adapter: int | None
    request: str


def main(argv: list[str] | None = None) -> int:
    return exit_code_of(lambda: run(argv))


def run(argv: list[str] | None) -> None:
    """Measure, and print the table; raises UserError for the user's mistakes."""
    options = _parser().parse_args(argv)
    if wrong := [name for name in ("requests", "new_tokens", "threads") if getattr(options, name) < 1]:
        raise UserError(*(f"--{name} {getattr(options, name)}: must be at least 1" for name in wrong))
    if options.child:
        _answer(options)
        return
    for name in options.experiments:
        Finished.named(name, options.workspace)
    reference = options.reference or options.experiments[0]
    if reference not in options.experiments:
        raise UserError(f"--reference {reference}: it is none of --experiments")
    children: dict[str, subprocess.Popen[str]] = {}
    loaded: dict[str, dict[str, float]] = {}
    for name in options.experiments:  # one after the other, as loading is timed
        children[name] = _start(name, options)
        loaded[name] = _read(children[name])
    found: dict[str, list[dict[str, float]]] = {name: [] for name in children}
    for number in range(options.requests):
        for name, child in children.items():
            child.stdin.write(f"{number}\n")
            child.stdin.flush()
            found[name].append(_read(child))
    peaks = {}
    for name, child in children.items():
        child.stdin.close()
        peaks[name] = _read(child)["peak"]
        child.wait()
    print(f"{heading()}; {options.threads} thread, {options.dtype}, {options.requests} requests, {options.new_tokens} new tokens\n")
    print(_table(loaded, found, peaks, reference))
    if options.json:
        write_json(options.json, _times(found, reference, options))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workspace", type=Path, required=True)
    parser.add_argument("--experiments", nargs="+", required=True, metavar="NAME")
    parser.add_argument("--reference", metavar="NAME", help="whose time the others' is divided by; default: the first")
    parser.add_argument("--dtype", default="q8_0", choices=DTYPES, help="of the base model's matrices")
    parser.add_argument("--requests", type=int, default=20)
    parser.add_argument("--new_tokens", type=int, default=32)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the times here, for compositional.report.efficiency")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    return parser


def _start(name: str, options: argparse.Namespace) -> subprocess.Popen[str]:
    words = [f"--{key}={getattr(options, key)}" for key in ("workspace", "dtype", "requests", "new_tokens", "threads")]
    command = [sys.executable, "-m", "benchmarks.on_device", "--child", name, "--experiments", name, *words]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _read(child: subprocess.Popen[str]) -> dict[str, Any]:
    line = child.stdout.readline()
    if not line:
        raise SystemExit(f"error: {' '.join(child.args)} failed")
    return json.loads(line)


def _table(
    loaded: dict[str, dict[str, float]], found: dict[str, list[dict[str, float]]], peaks: dict[str, float], reference: str
) -> str:
    lines = [
        ("experiment", "load, s", "prompt tokens/s", "new tokens/s", "s/request: least, median, most", f"of {reference}'s")
        + ("peak memory, GB", "base, bytes", "beside it, bytes")
    ]
    for name, requests in found.items():
        seconds = [one["seconds"] for one in requests]
        kinds = ("prompt", "new")
        rates = [sum(one[f"{kind}_tokens"] for one in requests) / sum(one[f"{kind}_s"] for one in requests) for kind in kinds]
        start, ratio = loaded[name], ratio_to(found[reference], requests)
        lines.append(
            (name, f"{start['seconds']:.2f}", *(f"{rate:.0f}" for rate in rates))
            + (
                f"{min(seconds):.2f}, {median(seconds):.2f}, {max(seconds):.2f}",
                f"{ratio:.2f}",
                f"{peaks[name]:.2f}",
            )
            + (f"{start['base_bytes']:,}", f"{start['extra_bytes']:,}")
        )
    return aligned(lines)


def ratio_to(reference: list[dict[str, float]], requests: list[dict[str, float]]) -> float:
    """The median over requests of the time's ratio to the reference's."""
    return median(one["seconds"] / other["seconds"] for one, other in zip(requests, reference, strict=True))


def _times(found: dict[str, list[dict[str, float]]], reference: str, options: argparse.Namespace) -> dict[str, Any]:
    """Median seconds of a request, and the median of its ratio to the reference's, by method of the paper's Table 2."""
    methods = {}
    for name, requests in found.items():
        experiment = Finished.named(name, options.workspace)
        label = label_of(experiment.plan)
        if label and not experiment.rank:
            seconds = median(one["seconds"] for one in requests)
            methods[label] = {"seconds": seconds, "ratio": ratio_to(found[reference], requests)}
    base = Path(Finished.named(reference, options.workspace).plan.base.name).name
    measured = f"{base} in {options.dtype} by llama.cpp, {options.threads} thread, {heading()}"
    return {"measured": measured, "reference": reference, "methods": methods}


def _answer(options: argparse.Namespace) -> None:
    """The child: load an experiment, then answer the test examples whose numbers are read, one line of JSON each."""
    from compositional.experiment.examples import demonstrations, load_data
    from compositional.models.chat import ChatEncoder
    from compositional.prediction import AnswerReader

    torch.set_num_threads(options.threads)
    experiment = Finished.named(options.child, options.workspace)
    plan = experiment.plan
    data = load_data(plan)
    examples, encoder = data.stages["test"].chosen, ChatEncoder(plan.base.tokenizer, demonstrations(plan, data))
    longest = plan.longest_prompt(encoder.demonstrations_length)
    if len(examples) < options.requests:
        raise UserError(f"--requests {options.requests}: {options.child} predicted {len(examples)} examples")
    with tempfile.TemporaryDirectory() as temporary:
        steps, base_bytes, extra_bytes = _write(experiment, options.dtype, Path(temporary))
        before = time.monotonic()
        server = _serve(Path(temporary), longest, options)
        reader = AnswerReader(plan.base, plan.base.tokenizer)
        _complete(server, [0], None, 1, len(list(Path(temporary).glob("adapter*"))))
        print(json.dumps({"seconds": time.monotonic() - before, "base_bytes": base_bytes, "extra_bytes": extra_bytes}), flush=True)
        for line in sys.stdin:
            print(json.dumps(_request(encoder, longest, server, reader, steps, examples[int(line)].input, options)), flush=True)
    print(json.dumps({"peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9}), flush=True)


def _write(experiment: Finished, dtype: str, folder: Path) -> tuple[list[Step], int, int]:
    """Write the files; returns the steps of a request, and the bytes of the base model and of what is beside it.

    Another process writes them, so that its memory does not count.
    """
    from multiprocessing import get_context

    process = get_context("fork").Process(target=_write_files, args=(experiment, dtype, folder))
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit("error: the files could not be written")
    plan = experiment.plan
    steps = [Step(number if plan.answering_adapters else None, request) for number, request in enumerate(plan.requests)]
    first = next(folder.glob("base*.gguf")) if len(list(folder.glob("base*"))) == 1 else folder / "base-00001-of-00002.gguf"
    total = sum(path.stat().st_size for path in folder.iterdir())
    return steps, first.stat().st_size, total - first.stat().st_size


def _write_files(experiment: Finished, dtype: str, folder: Path) -> None:
    from compositional.calibration.parameters import read_biases
    from compositional.formats.gguf import write_base, write_lora
    from compositional.formats.gguf_forms import gguf_form

    base = experiment.plan.base
    with tempfile.TemporaryDirectory() as of_cut:
        adapters, _ = experiment.adapters(Path(of_cut))
        write_base(folder / "base.gguf", base, dtype, read_biases(adapters[0].folder, adapters[0].shapes) if adapters else {})
        for number, one in enumerate(adapters):
            write_lora(folder / f"adapter{number}.gguf", gguf_form(base), one.read(), dtype)


def _serve(folder: Path, longest: int, options: argparse.Namespace) -> Any:
    import xllamacpp

    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(min(folder.glob("base*.gguf")))
    parameters.verbosity = 0
    parameters.n_parallel, parameters.n_ctx = 1, max(2048, longest + options.new_tokens + 1)
    parameters.cpuparams.n_threads = options.threads
    parameters.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(str(path), 0.0) for path in sorted(folder.glob("adapter*"))]
    return xllamacpp.Server(parameters)


def _request(
    encoder: ChatEncoder, longest: int, server: Any, reader: Any, steps: list[Step], text: str, options: argparse.Namespace
) -> dict[str, float]:
    """Seconds, and tokens and seconds of prompts and answers, over all steps."""
    before = time.monotonic()
    adapters = len({step.adapter for step in steps if step.adapter is not None})
    found = {"prompt_tokens": 0, "prompt_s": 0.0, "new_tokens": 0, "new_s": 0.0}
    for step in steps:
        prompt = encoder.prompt(step.request, text, longest).ids
        done = _complete(server, prompt, step.adapter, options.new_tokens, adapters)
        timings = done["timings"]
        found["prompt_tokens"] += timings["prompt_n"]
        found["prompt_s"] += timings["prompt_ms"] / 1000
        found["new_tokens"] += timings["predicted_n"]
        found["new_s"] += timings["predicted_ms"] / 1000
        text = reader.tokenizer.decode(done["tokens"], skip_special_tokens=True)
    return found | {"seconds": time.monotonic() - before}


def _complete(server: Any, prompt: list[int], adapter: int | None, tokens: int, adapters: int) -> dict[str, Any]:
    from compositional.prediction.llama_cpp_server import complete

    scales = [{"id": number, "scale": float(number == adapter)} for number in range(adapters)]
    return complete(server.listening_address, prompt, tokens, ignore_eos=True, lora=scales)


if __name__ == "__main__":
    sys.exit(main())
