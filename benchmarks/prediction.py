"""Requests per second and peak memory of prediction: this project's backends beside what a user would write without them.

    python -m benchmarks.prediction --workload pocket
    python -m benchmarks.prediction --workload replies --model FOLDER --raw_data_dir DIR

"pocket" answers the test sets of the compositional sub-tasks on Pocket, 250 requests each, with an adapter per sub-task. Its
adapters are trained first, and are in no figure. "replies" answers real turns of Synthetic-Persona-Chat with
SmolLM2-135M-Instruct, without an adapter and with a random LoRA. All rows decode greedily, in float32 where nothing else is said,
with the same prompts and limits of new tokens. Each row runs in a process of its own. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.answering import Answers, Way, by_backend, by_bare_engine, by_llama_cpp, by_pipeline
from benchmarks.machine import heading, peak_memory, row_in_a_process
from benchmarks.prompts import SUB_TASKS, Job, make_pocket_adapters, pocket_jobs, reply_job, write_random_adapter
from compositional.core.errors import UserError, nearest
from compositional.core.logs import log_to_screen, quieten_libraries
from compositional.core.processes import exit_code_of
from compositional.models.model import Model
from compositional.models.smollm2 import HUB_ID
from compositional.prediction import TRANSFORMERS, VLLM

PIPELINES = ("pipeline in float32", "pipeline in bfloat16")
WITH_LORA = " with LoRA"
LLAMA_CPP = "llama.cpp"
BACKENDS: dict[str, Way] = {
    "pipeline in float32": by_pipeline("float32"),
    "pipeline in bfloat16": by_pipeline("bfloat16"),
    "transformers backend": by_backend(TRANSFORMERS),
    "vLLM backend": by_backend(VLLM),
}
# Rows of the reply workload, by name; those with a LoRA end in WITH_LORA.
REPLIES: dict[str, Way] = BACKENDS | {
    "bare vLLM engine": by_bare_engine,
    "transformers backend" + WITH_LORA: by_backend(TRANSFORMERS),
    "vLLM backend" + WITH_LORA: by_backend(VLLM),
    "vLLM backend, weights" + WITH_LORA: by_backend(VLLM, folded=True),
    "bare vLLM engine" + WITH_LORA: by_bare_engine,
}
ROWS = {"pocket": list(BACKENDS), "replies": [*REPLIES, LLAMA_CPP]}


def run(argv: list[str]) -> None:
    """Measure the rows and print the table; raises UserError for the user's mistakes."""
    options = parse(argv)
    quieten_libraries()
    if options.child:
        print(json.dumps(measured(options.child, options)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        options.workspace = options.workspace or Path(temporary)
        if options.workload == "pocket":
            make_pocket_adapters(options.workspace, options.sub_tasks)
        else:
            write_random_adapter(Model(options.model), options.workspace / "lora")
        rows = {name: _in_a_process(name, options) for name in options.rows}
    print(f"\n{heading()}: {options.workload}, {len(next(iter(rows.values()))['texts']):,} requests\n")
    print(table(rows))


def parse(argv: list[str]) -> argparse.Namespace:
    """The options; raises UserError for those that don't fit together."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workload", choices=list(ROWS), required=True)
    parser.add_argument("--rows", nargs="+", metavar="ROW", help="default: all of the workload; the table names them")
    parser.add_argument("--sub_tasks", type=int, default=len(SUB_TASKS), help="pocket: use the first N sub-tasks only")
    parser.add_argument("--model", default=HUB_ID, help="replies: the model's folder or hub id")
    parser.add_argument("--raw_data_dir", type=Path, help="replies: folder with Synthetic-Persona-Chat's validation file")
    parser.add_argument("--prompts", type=int, default=200, help="replies: number of prompts")
    parser.add_argument("--gguf", type=Path, help="replies: the model's GGUF file, for llama.cpp")
    parser.add_argument("--workspace", type=Path, help="folder that keeps the adapters; default: a temporary one")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    known = ROWS[options.workload]
    mistakes = [f"--rows: unknown row {name!r}: {nearest(name, known)}" for name in options.rows or [] if name not in known]
    if options.workload == "replies" and not options.raw_data_dir:
        mistakes.append("--workload replies needs --raw_data_dir")
    mistakes += [f"--{name}: at least 1" for name in ("sub_tasks", "prompts") if getattr(options, name) < 1]
    if mistakes:
        raise UserError(*mistakes)
    options.rows = options.rows or known
    if options.workload == "replies":
        _reply_job("", options)
    if LLAMA_CPP in options.rows and not (options.gguf and importlib.util.find_spec("xllamacpp")):
        print(f"{LLAMA_CPP} is left out: it needs the package xllamacpp and --gguf", file=sys.stderr)
        options.rows = [name for name in options.rows if name != LLAMA_CPP]
    return options


def measured(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """One row's figures."""
    jobs = pocket_jobs(options.workspace, options.sub_tasks) if options.workload == "pocket" else [_reply_job(name, options)]
    ways = REPLIES | ({LLAMA_CPP: by_llama_cpp(options.gguf)} if options.gguf else {})
    answers: Answers = ways[name](jobs)
    tokenizer = jobs[0].base.tokenizer
    tokens = sum(len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in answers.texts)
    return {
        "texts": answers.texts,
        "loading": answers.loading,
        "predicting": answers.predicting,
        "tokens": tokens,
        "memory": peak_memory(),
    }


def _reply_job(name: str, options: argparse.Namespace) -> Job:
    adapter = options.workspace / "lora" if name.endswith(WITH_LORA) else None
    return reply_job(Model(options.model, "--model"), options.raw_data_dir, options.prompts, adapter)


def _in_a_process(name: str, options: argparse.Namespace) -> dict[str, Any]:
    given = ("workload", "sub_tasks", "model", "raw_data_dir", "prompts", "gguf", "workspace")
    words = [f"--{key}={value}" for key in given if (value := getattr(options, key)) is not None]
    row = row_in_a_process(name, ["benchmarks.prediction", "--child", name, "--rows", name, *words])
    print(f"{name}: {row['loading'] + row['predicting']:.1f} s", file=sys.stderr, flush=True)
    return row


def table(rows: dict[str, dict[str, Any]]) -> str:
    """A Markdown table. Ratios are to the faster pipeline; texts are compared with the float32 rows of the same adapter."""
    better = min((rows[name] for name in PIPELINES if name in rows), key=_seconds, default=None)
    lines = [
        "| what | load, s | predict, s | requests/s | × pipeline | … loaded | tokens | tokens/s | same texts | memory, GB |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name, row in rows.items():
        texts, ratio, loaded = row["texts"], "—", "—"
        if better:
            ratio = f"{_seconds(better) / _seconds(row):.1f}"
            loaded = f"{better['predicting'] / row['predicting']:.1f}"
        reference = rows.get("transformers backend" + WITH_LORA if name.endswith(WITH_LORA) else PIPELINES[0])
        same = sum(a == b for a, b in zip(texts, reference["texts"], strict=True)) / len(texts) if reference else None
        cells = [
            *(name, f"{row['loading']:.1f}", f"{row['predicting']:.1f}", f"{len(texts) / _seconds(row):.1f}", ratio, loaded),
            *(f"{row['tokens']:,}", f"{row['tokens'] / row['predicting']:,.0f}", "—" if same is None else f"{same:.1%}"),
            f"{row['memory']:.2f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _seconds(row: dict[str, Any]) -> float:
    return row["loading"] + row["predicting"]


def main() -> int:
    """The command; returns its exit code."""
    log_to_screen()
    return exit_code_of(lambda: run(sys.argv[1:]))


if __name__ == "__main__":
    sys.exit(main())
