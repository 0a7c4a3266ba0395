"""A sweep's commands as text: a shell script to run by hand, or one that submits Slurm arrays."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from compositional.sweep.steps import Kind, Step, judge_command, required_steps


def shell_script(steps: list[Step], folder: Path | None = None) -> str:
    """The commands in order, to be run in a folder. It goes on after a failure, as they say what they lack; ends with code 1."""
    lines = ["#!/usr/bin/env bash", *_go_to(folder), *(f"{step} || failed=1" for step in steps), "exit ${failed:-0}"]
    return "\n".join(lines) + "\n"


def _go_to(folder: Path | None) -> list[str]:
    return [f"cd {shlex.quote(str(folder))} || exit"] if folder else []


@dataclass(frozen=True)
class Resources:
    """What each group takes: GPUs where there are any, else processor cores (None: all of a machine's)."""

    gpus: int
    judge_gpus: int
    cpus: int | None


def slurm_script(steps: list[Step], table: Step, resources: Resources, logs: Path, folder: Path | None = None) -> str:
    """A script that submits an array job per wave from a folder: the steps of a wave need only those of earlier ones.

    The judge and the table come last. One job judges all experiments, with one engine; it refuses to begin while one of them has no
    predictions.
    """
    lines = [
        "#!/usr/bin/env bash",
        "# Options for every job, such as a partition: set SBATCH_PARTITION and the like.",
        "set -euo pipefail",
        *_go_to(folder),
        f"mkdir -p {shlex.quote(str(logs))}",
        "previous=",
    ]
    judging = [step for step in steps if step.kind is Kind.JUDGE]
    jobs = [
        ([str(step) for step in wave], 0 if wave[0].kind is Kind.PREPARE else resources.gpus)
        for wave in waves([step for step in steps if step.kind is not Kind.JUDGE])
    ]
    if judging:
        jobs.append(([judge_command(judging)], resources.judge_gpus))
    for number, (commands, gpus) in enumerate([*jobs, ([str(table)], 0)], start=1):
        script = "\n".join(f"{index}) {command} ;;" for index, command in enumerate(commands))
        lines += [
            f"previous=$(sbatch --parsable --array=0-{len(commands) - 1} --gpus={gpus} --job-name=sweep_{number} "
            f"--output={shlex.quote(str(logs))}/wave_{number}_%a.log ${{previous:+--dependency=afterany:$previous}} <<'WAVE'",
            f'#!/usr/bin/env bash\ncase "$SLURM_ARRAY_TASK_ID" in\n{script}\nesac',
            "WAVE",
            ")",
        ]
    return "\n".join(lines) + "\n"


def waves(steps: list[Step]) -> list[list[Step]]:
    """The steps by how long a chain of others they need."""
    depth: dict[str, int] = {}
    required = required_steps(steps)
    for step in steps:
        depth[step.name] = 1 + max((depth[name] for name in required[step.name]), default=-1)
    found: list[list[Step]] = [[] for _ in range(1 + max(depth.values(), default=-1))]
    for step in steps:
        found[depth[step.name]].append(step)
    return found


def numbered(steps: list[Step]) -> str:
    """A line per command, with its number."""
    return "\n".join(f"[{number}/{len(steps)}] {step}" for number, step in enumerate(steps, start=1))
