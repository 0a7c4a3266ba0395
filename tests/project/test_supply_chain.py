"""Nothing is unpickled, no code of a model is run, and no socket leaves this machine without a flag that asks for it."""

from __future__ import annotations

import ast
import json
import os
import pty
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from compositional.core.errors import UserError
from compositional.models.model import Model
from helpers import PROJECT
from helpers.tiny_runs import COMPOSED, MODULES, TINY_RUN

SOURCES = [*sorted((PROJECT / "src").rglob("*.py")), *sorted(PROJECT.glob("*.py")), *sorted((PROJECT / "scripts").glob("*.py"))]
SERIALIZERS = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
NETWORK = {"socket", "urllib.request", "http.client", "ftplib", "smtplib", "requests", "httpx", "aiohttp", "openai"}
# Files that may open a connection, and what asks for it.
ASKED_FOR = {
    "core/hub.py": "a model or data set by its hub id",
    "judge/url_judge.py": "--judge_url",
    "sweep/cluster.py": "--address",
    "core/servers.py": "--llama_cpp_url, or the server of llama.cpp on this machine",
    "demo/server.py": "it is the server of the demo's page",
}


def imports_of(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """Each imported module, with the imported name or an empty one."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.module or "", alias.name) for alias in node.names)


def calls_in(tree: ast.AST) -> Iterator[tuple[str, dict[str, ast.expr]]]:
    """Each call's dotted name and keyword arguments."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), {word.arg: word.value for word in node.keywords if word.arg}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PROJECT)))
def test_no_source_unpickles_runs_foreign_code_or_opens_connections(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for module, name in imports_of(tree):
        assert module.split(".")[0] not in SERIALIZERS or name == "UnpicklingError", f"{module} is imported"
        if module in NETWORK or f"{module}.{name}" in NETWORK:
            assert any(str(path).endswith(f"compositional/{known}") for known in ASKED_FOR), f"{module} is imported"
    for called, words in calls_in(tree):
        assert called not in ("eval", "exec", "compile", "yaml.load"), called
        if called == "torch.load":
            assert ast.unparse(words["weights_only"]) == "True"
        for flag in ("trust_remote_code", "allow_pickle"):
            assert flag not in words or ast.unparse(words[flag]) == "False"


WATCHED = """
import ipaddress, sys

def watch(event, arguments):
    if event == "socket.connect" and isinstance(arguments[1], tuple):
        if not ipaddress.ip_address(arguments[1][0]).is_loopback:
            raise RuntimeError(f"a connection to {arguments[1]}")
    if event == "socket.getaddrinfo" and arguments[0] not in ("localhost", "127.0.0.1", "::1", None):
        raise RuntimeError(f"a look-up of {arguments[0]}")
    if event == "pickle.find_class" and not allowed(arguments):
        raise RuntimeError(f"unpickling of {arguments}")

def allowed(arguments):
    # Processes of one command hand each other tasks in this way; what is read from files is another matter.
    frame = sys._getframe()
    while frame:
        if "multiprocessing" in frame.f_code.co_filename:
            return True
        frame = frame.f_back
    return False

sys.addaudithook(watch)
import json, llm_judge_eval, make_tables, run_experiment
for name, words in json.loads(sys.argv[1]):
    {"run": run_experiment, "judge": llm_judge_eval, "tables": make_tables}[name].run(words)
"""


@pytest.mark.slow(20)
def test_training_merging_predicting_judging_and_tables_reach_nobody_and_unpickle_nothing(tiny_models, tmp_path):
    base = f"{TINY_RUN}--model_name_or_path {tiny_models['llama']} "
    merge = f"--experiment_name pocket_sum_tr_es_linear_merge {COMPOSED}--lora_merge_strategy linear {MODULES}"
    lines = [
        ("run", f"{base}--experiment_name sums --dataset pocket_dialogs --stored_model_name sums --do_train --save_steps 2"),
        ("run", f"{base}--experiment_name translation --dataset pocket_sentences_es --stored_model_name translation --do_train"),
        ("run", f"{base}{merge}--do_predict"),
        ("judge", "--experiment_name pocket_sum_tr_es_linear_merge --judge_model_name_or_path pocket --bootstrap_resamples 20"),
        ("tables", "--sub_tasks sum_tr_es --methods linear_merge --bootstrap_resamples 20"),
    ]
    commands = [(name, [*words.split(), "--workspace", str(tmp_path / "w")]) for name, words in lines]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment |= {"PYTHONPATH": f"{PROJECT / 'src'}:{PROJECT}", "HF_HOME": str(tmp_path / "hub")}
    words = [sys.executable, "-c", WATCHED, json.dumps(commands)]
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "w" / "output" / "tables" / "main.md").is_file()


@pytest.fixture
def model_with_code(tiny_models, tmp_path) -> Path:
    """A model whose configuration names code of its own, which would leave a mark."""
    folder = shutil.copytree(tiny_models["llama"], tmp_path / "model")
    mark = f"open({str(tmp_path / 'mark')!r}, 'w')\n"
    (folder / "own.py").write_text(f"{mark}from transformers import LlamaConfig as Own, LlamaForCausalLM as OwnModel\n")
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.OwnModel"}}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_code_of_a_model_is_refused(model_with_code, tmp_path):
    with pytest.raises(UserError, match=f"--model_name_or_path {re.escape(str(model_with_code))} could not be loaded"):
        _ = Model(str(model_with_code)).config
    assert not (tmp_path / "mark").exists()


@pytest.mark.slow
def test_nobody_is_asked_on_a_terminal_whether_code_of_a_model_shall_be_run(model_with_code, tmp_path):
    ours, theirs = pty.openpty()
    os.write(ours, b"y\n")
    flags = f"--experiment_name e --dataset pocket_dialogs --zero_shot --do_predict --model_name_or_path {model_with_code}"
    words = [sys.executable, str(PROJECT / "run_experiment.py"), *flags.split(), "--workspace", str(tmp_path / "w")]
    done = subprocess.run(words, stdin=theirs, capture_output=True, text=True, check=False, timeout=120)
    os.close(ours)
    os.close(theirs)
    assert done.returncode == 2
    assert "Do you wish" not in done.stdout + done.stderr
    assert not (tmp_path / "mark").exists()


@pytest.mark.slow
def test_installed_packages_fit_together_but_for_those_left_out_on_purpose():
    stated = next(line for line in (PROJECT / "requirements-cpu.txt").read_text().splitlines() if "Left out on purpose" in line)
    left_out = set(re.findall(r"torchvision|torchaudio|torchcodec|triton", stated))
    done = subprocess.run([sys.executable, "-m", "pip", "check"], capture_output=True, text=True, check=False)
    if "No module named pip" in done.stderr:
        pytest.skip("there is no pip in this environment")
    faults = [line for line in done.stdout.splitlines() if "No broken requirements" not in line]
    assert [line for line in faults if not any(f"requires {name}, which is not installed" in line for name in left_out)] == []


def test_the_set_with_hashes_names_the_versions_of_the_set():
    def versions(name: str) -> dict[str, str]:
        lines = [line.split() for line in (PROJECT / name).read_text(encoding="utf-8").splitlines() if line and line[0] != "#"]
        for _, *options in lines:
            assert all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", option) for option in options)
        pairs = [line[0].partition("==") for line in lines]
        assert len(lines[0]) == (2 if "hashes" in name else 1)
        return {re.sub(r"[-_.]+", "-", package).lower(): version.partition("+")[0] for package, _, version in pairs}

    assert versions("requirements-cpu-hashes.txt") == versions("requirements-cpu.txt")
