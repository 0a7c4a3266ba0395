"""Whether many experiments in one process leave memory, files, sockets, threads or processes behind.

    python -m benchmarks.soak --experiments 200

Zero-shot, a single adapter, a merge, multi-step usage and LC++ take turns on Pocket, each with its judgement, in one process as a
sweep runs them. Prints what the process holds after ten experiments and at the end. The exit code is 1 if its memory has grown by
more than 10 %, or anything else is left.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import logging
import os
import shlex
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path

import llm_judge_eval
import run_experiment
from benchmarks.chaos import LEFT_BEHIND
from benchmarks.machine import heading
from compositional.core.tables import aligned
from compositional.prediction.vllm_backend import Engines

_SIZE = (
    "@configs/pocket.txt --max_test_examples 4 --max_new_tokens 8 --bootstrap_resamples 50 --warmup_steps 0 --report_to none "
    "--workspace {workspace} "
)
_COMPOSED = "--dataset pocket_dialogs --secondary_task translation --tgt_lang es --secondary_task_dataset pocket_dialogs_es "
_MODULES = "--lora_merge_modules sums translation "
METHODS = {
    "zero-shot": "--zero_shot ",
    "adapter": "--stored_model_name sums ",
    "merge": f"--lora_merge_strategy linear {_MODULES}",
    "multi-step": "--stored_model_name sums --secondary_stored_model_name translation --multi_step_prompts --prompt_style empty ",
    "LC++": f"--lora_merge_strategy learnable_calibration_pp --for_each_component {_MODULES}--merge_datasets pocket_dialogs_es "
    "--num_examples_merge 16 ",
}
_WARM, _GROWTH = 10, 1.10


@dataclass(frozen=True)
class Held:
    """What this process holds: memory (MB), open files and sockets, threads, child processes, and temporary files."""

    memory: float
    files: int
    threads: int
    processes: int
    temporary_files: int


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiments", type=int, default=200)
    count = parser.parse_args().experiments
    if count < _WARM:
        parser.error(f"--experiments {count}: memory is compared with that after {_WARM}")
    logging.disable(logging.WARNING)
    start, names = time.monotonic(), list(METHODS)
    with tempfile.TemporaryDirectory() as folder, Engines() as engines:
        tempfile.tempdir = os.environ["TMPDIR"] = str(Path(folder, "temporary"))
        Path(tempfile.tempdir).mkdir()
        size = _SIZE.format(workspace=folder)
        for name, dataset in (("sums", "pocket_dialogs"), ("translation", "pocket_sentences_es")):
            words = (
                f"{size}--experiment_name {name} --dataset {dataset} --stored_model_name {name} --do_train --max_train_examples 32"
            )
            run_experiment.run(shlex.split(words), engines)
        for number in range(1, count + 1):
            method = METHODS[names[number % len(names)]]
            run_experiment.run(shlex.split(f"{size}--experiment_name e{number} {_COMPOSED}{method}--do_predict"), engines)
            llm_judge_eval.run(shlex.split(f"--experiment_name e{number} --judge_model_name_or_path pocket --workspace {folder}"))
            if number == _WARM:
                warm = held()
            print(f"\r{number} of {count}", end="", file=sys.stderr, flush=True)
        last = held()
        unfinished = [path for path in Path(folder).rglob("*") if path.name.endswith(LEFT_BEHIND)]
    rows = [(f"after {_WARM}", *shown(warm)), (f"after {count}", *shown(last))]
    print(f"\n{heading()}, {time.monotonic() - start:.0f} s\n")
    print(aligned([("experiments", "memory, MB", "open files", "threads", "processes", "temporary files"), *rows]), end="")
    for path in unfinished:
        print(f"- left: {path.name}")
    same = replace(warm, memory=0) == replace(last, memory=0)
    return 0 if last.memory <= _GROWTH * warm.memory and same and not unfinished else 1


def held() -> Held:
    """What this process holds now, after its garbage is collected."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    status = Path("/proc/self/status").read_text()
    resident = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    temporary = sum(1 for path in Path(tempfile.gettempdir()).rglob("*"))
    return Held(resident / 1000, len(os.listdir("/proc/self/fd")), threading.active_count(), len(children), temporary)


def shown(one: Held) -> tuple[str, ...]:
    return (f"{one.memory:.0f}", str(one.files), str(one.threads), str(one.processes), str(one.temporary_files))


if __name__ == "__main__":
    sys.exit(main())
