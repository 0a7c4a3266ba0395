"""The package as it is installed: a wheel in a folder of its own, and the scripts of a checkout without any installation."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

from compositional.core.files import read_json
from compositional.core.workspace import Workspace
from helpers import PROJECT
from helpers.checkout import copy_checkout

PACKAGE = PROJECT / "src" / "compositional"
SETTINGS = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))
COMMANDS = ("run_experiment", "llm_judge_eval", "run_sweep", "make_tables")
POCKET_RUN = "@configs/pocket.txt --experiment_name e --dataset pocket_dialogs --zero_shot --do_predict --max_test_examples 2"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel of a copy, so that building leaves nothing in the checkout."""
    source, folder = copy_checkout(tmp_path_factory.mktemp("source")), tmp_path_factory.mktemp("wheel")
    build = "wheel --quiet --no-deps --no-build-isolation --no-index --wheel-dir"
    done = subprocess.run([sys.executable, "-m", "pip", *build.split(), folder, source], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """A folder in which the wheel is installed."""
    folder = tmp_path_factory.mktemp("installed")
    install = "install --quiet --no-deps --no-index --target"
    subprocess.run([sys.executable, "-m", "pip", *install.split(), folder, wheel], check=True, capture_output=True)
    return folder


def output_of(python: Path, words: str | list[str], folder: Path, path: Path | None = None) -> str:
    """What a Python says in a folder, with one more place to import from."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    environment |= {"PYTHONPATH": str(path)} if path else {}
    environment |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    words = words.split() if isinstance(words, str) else words
    done = subprocess.run([python, *words], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout + done.stderr


# ---- what pyproject.toml says


def test_the_packages_are_the_folders_with_files():
    folders = {path.parent for path in PACKAGE.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    assert sorted(SETTINGS["tool"]["setuptools"]["packages"]) == sorted(
        ".".join(("compositional", *folder.relative_to(PACKAGE).parts)) for folder in folders
    )


def pins(name: str) -> dict[str, str]:
    """Packages and versions of a file of requirements."""
    lines = [line for line in (PROJECT / name).read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    return dict(re.split(r"\s*==\s*", line.split(";")[0].strip(), maxsplit=1) for line in lines)


@pytest.mark.slow
def test_the_extras_are_the_files_of_direct_requirements(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        metadata = Parser().parsestr(archive.read(name).decode())
    for extra, file in (("cpu", "requirements-cpu-direct.txt"), ("gpu", "requirements.txt")):
        pattern = re.compile(rf"(\S+?)\s*==\s*(\S+?)\s*;\s*extra == [\"']{extra}[\"']")
        named = [found.groups() for line in metadata.get_all("Requires-Dist") if (found := pattern.fullmatch(line))]
        assert dict(named) == pins(file)


def test_the_pins_of_direct_requirements_are_those_of_the_whole_cpu_set():
    def comparable(found: dict[str, str]) -> dict[str, str]:
        return {re.sub(r"[-_.]+", "-", name).lower(): number.split("+")[0] for name, number in found.items()}

    whole, gpu, cpu = (comparable(pins(f"requirements{end}.txt")) for end in ("-cpu", "", "-cpu-direct"))
    assert {name: whole.get(name) for name in cpu} == cpu
    assert {name: number for name, number in gpu.items() if name in cpu} == cpu
    assert gpu.keys() - cpu.keys() == {"vllm"}


# ---- the wheel


@pytest.mark.slow
def test_a_wheel_has_every_file_of_the_package_and_no_other_top_level_name(installed):
    names = {path.stem for path in installed.iterdir() if path.suffix not in (".dist-info",)} - {"bin", "__pycache__"}
    assert names == {"compositional", "demo", "export", *COMMANDS}

    def files_in(folder: Path) -> set[str]:
        return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts}

    assert files_in(installed / "compositional") == files_in(PACKAGE)
    assert {path.name for path in (installed / "bin").iterdir()} == set(SETTINGS["project"]["scripts"])


@pytest.mark.slow(7)
def test_an_installed_package_runs_from_any_folder(installed, bare_python, tmp_path):
    output_of(bare_python, f"-m run_experiment {POCKET_RUN}", tmp_path, installed)
    assert read_json(Workspace(tmp_path).results("e"))["stages"]["test"]["counts"]["examples"] == 2


@pytest.mark.slow
def test_what_an_installed_package_needs_is_found_there(installed, bare_python, tmp_path):
    script = (
        "import compositional\n"
        "from compositional.report import page\n"
        "print(compositional.__file__)\n"
        "assert '__DATA__' in page._TEMPLATE.read_text(encoding='utf-8')\n"
    )
    said = output_of(bare_python, ["-c", script], tmp_path, installed)
    assert Path(said.strip()).parent == installed / "compositional"
    assert "Calibration++" in output_of(bare_python, "-m compositional.report.efficiency", tmp_path, installed)


@pytest.mark.slow
@pytest.mark.parametrize("command", [*COMMANDS, "compositional.preparation"])
def test_an_installed_command_helps(command, installed, bare_python, tmp_path):
    assert "usage: " in output_of(bare_python, f"-m {command} --help", tmp_path, installed)


# ---- a checkout, not installed


@pytest.mark.slow
def test_the_package_is_not_installed_in_the_bare_python(bare_python, tmp_path):
    script = (
        "import importlib.util as u; print(u.find_spec('compositional'), u.find_spec('run_experiment'), u.find_spec('torch').name)"
    )
    assert output_of(bare_python, ["-c", script], tmp_path) == "None None torch\n"


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_a_script_of_a_checkout_helps_from_any_folder(command, bare_python, tmp_path):
    assert f"usage: {command}.py" in output_of(bare_python, f"{PROJECT / command}.py --help", tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow(9)
def test_a_script_of_a_checkout_trains_from_any_folder(bare_python, tiny_models, tmp_path):
    flags = (
        f"@configs/pocket.txt --model_name_or_path {tiny_models['llama']} --experiment_name e --stored_model_name e "
        "--dataset pocket_dialogs --do_train --max_train_examples 4 --batch_size 2 --gradient_accumulation_steps 1 --report_to none"
    )
    output_of(bare_python, f"{PROJECT / 'run_experiment.py'} {flags}", tmp_path)
    assert (Workspace(tmp_path).stored_model("e") / "adapter_model.safetensors").is_file()
