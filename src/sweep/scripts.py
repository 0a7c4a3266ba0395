"""A sweep's commands as text: a shell script to run by hand, or one that submits Slurm arrays."""

from __future__ import annotations

from src.sweep.steps import Step


def shell_script(steps: list[Step]) -> str:
    """The commands in order. It goes on after a failure, as the commands say themselves what they lack, and ends with code 1."""
    return "\n".join(["#!/usr/bin/env bash", *(f"{step} || failed=1" for step in steps), "exit ${failed:-0}"]) + "\n"


def slurm_script(steps: list[Step]) -> str:
    """A script that submits an array job per wave: the steps of a wave need only those of earlier ones."""
    lines = [
        "#!/usr/bin/env bash",
        "# Options of sbatch for every job: SBATCH_PARTITION=..., or add them here.",
        "set -euo pipefail",
    ]
    lines += ["mkdir -p logs/sweep", "previous="]
    for number, wave in enumerate(waves(steps), start=1):
        script = "\n".join(["#!/usr/bin/env bash", 'case "$SLURM_ARRAY_TASK_ID" in'])
        script += "".join(f"\n{index}) {step} ;;" for index, step in enumerate(wave)) + "\nesac\n"
        lines += [
            f"previous=$(sbatch --parsable --array=0-{len(wave) - 1} --gpus=1 --job-name=sweep_{number} "
            f"--output=logs/sweep/wave_{number}_%a.log ${{previous:+--dependency=afterany:$previous}} <<'WAVE'",
            script.rstrip(),
            "WAVE",
            ")",
        ]
    return "\n".join(lines) + "\n"


def waves(steps: list[Step]) -> list[list[Step]]:
    """The steps by how long a chain of others they need."""
    depth: dict[str, int] = {}
    for step in steps:
        depth[step.name] = 1 + max((depth[name] for name in step.needs), default=-1)
    found: list[list[Step]] = [[] for _ in range(1 + max(depth.values(), default=-1))]
    for step in steps:
        found[depth[step.name]].append(step)
    return found


def numbered(steps: list[Step]) -> str:
    """A line per command, with its number."""
    return "\n".join(f"[{number}/{len(steps)}] {step}" for number, step in enumerate(steps, start=1))
