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


# Slurm's arrays have at most MaxArraySize - 1 tasks, which is 1000 unless a cluster says otherwise.
_LARGEST_ARRAY = 1000

# The functions of a script. GPUs are asked for where Slurm has any, as a cluster without refuses `--gpus`. A job's end, however it
# comes, lets the next ones begin: they say themselves what they lack.
_SUBMITTING = """\
gpus=$(sinfo --noheader --format=%G ${{SBATCH_PARTITION:+--partition="$SBATCH_PARTITION"}})
takes() {{ if [[ $gpus == *gpu* ]]; then echo "--nodes=1 --gpus=$1"; else echo "{cores}"; fi; }}
jobs=() earlier= wave=
submit() {{
    local job
    job=$(sbatch --parsable ${{earlier:+--dependency=afterany$earlier}} "$@")
    jobs+=("${{job%%;*}}") wave+=":${{job%%;*}}"
}}
next_wave() {{ earlier=$wave wave=; }}
"""

# As many threads as cores, as Ray's tasks have; what it is worth follows from what Slurm has given.
_THREADS = "export OMP_NUM_THREADS=${SLURM_CPUS_PER_TASK:-$SLURM_CPUS_ON_NODE} PYTHONUNBUFFERED=1"


def slurm_script(steps: list[Step], table: Step, resources: Resources, logs: Path, folder: Path | None = None) -> str:
    """A script that submits an array job per wave from a folder: the steps of a wave need only those of earlier ones.

    The judge and the table come last. One job judges all experiments that have predictions, with one engine.
    """
    cores = f"--cpus-per-task={resources.cpus}" if resources.cpus else "--exclusive"
    lines = [
        "#!/usr/bin/env bash",
        "# Options for every job, such as a partition: set SBATCH_PARTITION and the like.",
        "set -euo pipefail",
        *_go_to(folder),
        f"mkdir -p {shlex.quote(str(logs))}",
        _SUBMITTING.format(cores=cores),
    ]
    judging = [step for step in steps if step.kind is Kind.JUDGE]
    others = [step for step in steps if step.kind is not Kind.JUDGE]
    jobs = [([str(step) for step in wave], resources.gpus) for wave in waves(others)]
    if judging:
        jobs.append(([judge_command(judging)], resources.judge_gpus))
    for number, (commands, gpus) in enumerate([*jobs, ([str(table)], 0)], start=1):
        for start in range(0, len(commands), _LARGEST_ARRAY):
            log = f"{logs}/wave_{number}_{f'{start}+' if start else ''}".replace("%", "%%")
            lines += _array(commands[start : start + _LARGEST_ARRAY], gpus, f"sweep_{number}", log)
        lines.append("next_wave\n")
    lines.append('echo "submitted ${jobs[*]}; to cancel all of it: scancel ${jobs[*]}"')
    return "\n".join(lines) + "\n"


def _array(commands: list[str], gpus: int, name: str, log: str) -> list[str]:
    """The lines that submit commands as the tasks of one array."""
    script = "\n".join(f"{index}) {command} ;;" for index, command in enumerate(commands))
    takes = f" $(takes {gpus})" if gpus else ""
    return [
        f"submit --array=0-{len(commands) - 1}{takes} --job-name={name} --output={shlex.quote(log)}%a.log <<'WAVE'",
        f'#!/usr/bin/env bash\n{_THREADS}\ncase "$SLURM_ARRAY_TASK_ID" in\n{script}\nesac',
        "WAVE",
    ]


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
