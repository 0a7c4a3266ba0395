"""Printed scripts of a sweep, for a shell and for Slurm, and the script of each compositional task."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import run_sweep
from compositional.sweep import scripts
from compositional.sweep.scripts import Resources, shell_script, slurm_script, waves
from compositional.sweep.steps import Kind, Step, required_steps
from helpers import PROJECT
from helpers.sweeps import ONE_SUB_TASK, steps_of

TABLE = Step(Kind.TABLE, "", (), "table")
RESOURCES = Resources(gpus=2, judge_gpus=4, cpus=None)


@pytest.mark.slow
def test_printed_scripts_are_bash_and_keep_the_order(tmp_path):
    steps = steps_of(f"{ONE_SUB_TASK}--methods paper")
    experiments = [step for step in steps if step.kind is not Kind.JUDGE]
    for script in (shell_script(steps), slurm_script(steps, TABLE, RESOURCES, tmp_path)):
        (tmp_path / "script.sh").write_text(script)
        subprocess.run(["bash", "-n", str(tmp_path / "script.sh")], check=True)
        assert all(str(step) in script for step in experiments)
    assert shell_script(steps).splitlines()[1:-1] == [f"{step} || failed=1" for step in steps]
    required = required_steps(steps)
    depth = {step.name: number for number, wave in enumerate(waves(steps)) for step in wave}
    assert all(depth[need] < depth[step.name] for step in steps for need in required[step.name])


def test_a_script_that_is_printed_elsewhere_runs_in_the_projects_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for kind in ("shell", "slurm"):
        run_sweep.run(shlex.split(f"{ONE_SUB_TASK}--methods zero_shot --print_commands {kind}"))
        printed = capsys.readouterr().out
        assert f"\ncd {PROJECT} || exit\n" in printed
        assert f"make_tables.py --methods zero_shot --sub_tasks sum_tr_es --workspace {tmp_path}" in printed
        assert (f"--output={tmp_path}/logs/sweep/wave_1_" in printed) == (kind == "slurm")


def submitted(script: str, folder: Path, gpus: str) -> list[str]:
    """Run a script with stand-ins for Slurm's commands; the words of each submission. The jobs are in `job_<number>`."""
    calls = folder / "calls"
    commands = {
        "sbatch": f'echo "$@" >> {calls}\ncat > {folder}/job_$(wc -l < {calls})\necho "$(wc -l < {calls});of_some_cluster"',
        "sinfo": f"echo '{gpus}'",
        "python": f'echo "$OMP_NUM_THREADS $@" >> {folder}/ran',
    }
    for name, text in commands.items():
        (folder / name).write_text(f"#!/usr/bin/env bash\n{text}\n")
        (folder / name).chmod(0o755)
    done = subprocess.run(
        ["bash", "-c", script], cwd=folder, env=with_stand_ins(folder), check=True, capture_output=True, text=True
    )
    lines = calls.read_text().splitlines()
    numbers = " ".join(str(number) for number in range(1, len(lines) + 1))
    assert done.stdout == f"submitted {numbers}; to cancel all of it: scancel {numbers}\n"
    return lines


def with_stand_ins(folder: Path) -> dict[str, str]:
    return os.environ | {"PATH": f"{folder}:{os.environ['PATH']}"}


@pytest.mark.slow
def test_a_slurm_script_submits_each_wave_after_the_one_before(tmp_path):
    script = slurm_script(steps_of(f"{ONE_SUB_TASK}--methods linear_merge main_lora"), TABLE, RESOURCES, tmp_path / "10%logs")
    first, second, third, last = submitted(script, tmp_path, "gpu:h200:8(S:0-1)")
    assert "--array=0-1 " in first
    assert f"--output={tmp_path}/10%%logs/wave_1_%a.log" in first
    assert (tmp_path / "10%logs").is_dir()
    assert "--dependency" not in first
    assert ["afterany:1 " in second, "afterany:2 " in third, "afterany:3 " in last] == [True, True, True]
    assert ["--gpus=2" in first, "--gpus=2" in second, "--gpus=4" in third, "--gpus" not in last] == [True, True, True, True]
    assert str(TABLE) in (tmp_path / "job_4").read_text()
    judged = "--experiment_name pocket_sum_tr_es_main_lora pocket_sum_tr_es_linear_merge --judge_model_name_or_path pocket"
    assert f"{judged} --workspace . --skip_missing ;;" in (tmp_path / "job_3").read_text()


@pytest.mark.slow
def test_a_job_of_an_array_runs_its_own_step_with_a_thread_for_each_core_and_ends_with_its_exit_code(tmp_path):
    submitted(slurm_script(steps_of(f"{ONE_SUB_TASK}--methods main_lora"), TABLE, RESOURCES, tmp_path), tmp_path, "(null)")
    for cores, threads in (({"SLURM_CPUS_PER_TASK": "3", "SLURM_CPUS_ON_NODE": "4"}, 3), ({"SLURM_CPUS_ON_NODE": "4"}, 4)):
        task = {"SLURM_ARRAY_TASK_ID": "1", "OMP_NUM_THREADS": "9"}
        subprocess.run(["bash", str(tmp_path / "job_1")], env=with_stand_ins(tmp_path) | task | cores, check=True)
        (ran,) = (tmp_path / "ran").read_text().splitlines()
        assert ran.startswith(f"{threads} run_experiment.py ")
        assert "--experiment_name pocket_sentences_es_lora" in ran
        (tmp_path / "ran").unlink()
    (tmp_path / "python").write_text("#!/usr/bin/env bash\nexit 2\n")
    assert (
        subprocess.run(["bash", str(tmp_path / "job_1")], env=with_stand_ins(tmp_path) | task | cores, check=False).returncode == 2
    )


@pytest.mark.slow
@pytest.mark.parametrize(("cpus", "expected"), [(3, "--cpus-per-task=3"), (None, "--exclusive")])
def test_where_slurm_has_no_gpus_none_are_asked_for(cpus, expected, tmp_path):
    resources = Resources(gpus=2, judge_gpus=4, cpus=cpus)
    script = slurm_script(steps_of(f"{ONE_SUB_TASK}--methods main_lora"), TABLE, resources, tmp_path)
    *others, table = submitted(script, tmp_path, "(null)")
    assert [expected in line for line in others] == [True, True, True]
    assert expected not in table
    assert not any("--gpus" in line for line in (*others, table))


@pytest.mark.slow
def test_a_wave_too_large_for_an_array_is_several_arrays_and_the_next_wave_waits_for_all(tmp_path, monkeypatch):
    monkeypatch.setattr(scripts, "_LARGEST_ARRAY", 2)
    steps = steps_of("--sub_tasks sum_tr_es sum_tr_fr --methods linear_merge --no_judge")
    first, second, third, last = submitted(slurm_script(steps, TABLE, RESOURCES, tmp_path), tmp_path, "gpu:8")
    assert ["--array=0-1 " in first, "--array=0-0 " in second] == [True, True]
    assert [f"{tmp_path}/wave_1_%a.log" in first, f"{tmp_path}/wave_1_2+%a.log" in second] == [True, True]
    assert [("--dependency" in line) for line in (first, second)] == [False, False]
    assert ["afterany:1:2 " in third, "afterany:3 " in last] == [True, True]


@pytest.mark.slow
@pytest.mark.parametrize("broken", [False, True])
def test_the_script_of_a_task_spreads_its_variants_over_a_list_of_gpus(broken, tmp_path):
    shutil.copytree(PROJECT / "scripts", tmp_path / "scripts")
    fake = tmp_path / "bin" / "python"
    fake.parent.mkdir()
    fails = 'case "$*" in *llm_judge*sum_tr_fr*) exit 1 ;; esac' if broken else ""
    fake.write_text(
        f'#!/usr/bin/env bash\nif [ "$1" = run_sweep.py ]; then cd {PROJECT} && exec {sys.executable} "$@"; fi\n'
        f'echo "$CUDA_VISIBLE_DEVICES $*" >> {tmp_path}/ran\n{fails}\n'
    )
    fake.chmod(0o755)
    environment = os.environ | {"PATH": f"{fake.parent}:{os.environ['PATH']}", "METHODS": "main_lora linear_merge"}
    words = ["bash", "scripts/sum_tr.sh", "pocket", "4", "7"]
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == int(broken)
    assert ("failed: sum_tr fr; its log says why" in done.stderr) == broken
    ran = (tmp_path / "ran").read_text().splitlines()
    assert "--experiment_name pocket_dialogs_lora " in ran[0]
    assert ran[-1] == " make_tables.py --tasks sum_tr --methods main_lora linear_merge --workspace ."
    gpu_of = {line.split("--experiment_name ")[1].split()[0]: line.split()[0] for line in ran[1:-1]}
    for variant, gpu in (("es", "4"), ("fr", "7"), ("de", "4")):
        assert gpu_of[f"pocket_sentences_{variant}_lora"] == gpu_of[f"pocket_sum_tr_{variant}_linear_merge"] == gpu
    judged = [line for line in ran if " llm_judge_eval.py " in line]
    assert len(judged) == 2 * 3
