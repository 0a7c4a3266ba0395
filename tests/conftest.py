"""Tiny models of three architectures, a workspace per test, and the real command run in this process."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.configuration import set_hypothesis_home_dir

from helpers import SHARED_DATA

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # waiting threads that spin would slow the runs of other processes

pytest_plugins = ["helpers.slow"]

# Property tests draw the same few cases in every run. HYPOTHESIS_PROFILE=long draws many more, other ones each time.
_OF_ALL_PROFILES = {
    "deadline": None,
    "database": None,
    # Fixtures of a function are shared by all of its cases: a test that writes gives each case a folder of its own.
    "suppress_health_check": [HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
}
settings.register_profile("short", derandomize=True, max_examples=60, **_OF_ALL_PROFILES)
settings.register_profile("long", derandomize=False, max_examples=1000, print_blob=True, **_OF_ALL_PROFILES)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "short"))
set_hypothesis_home_dir(Path(tempfile.gettempdir()) / "hypothesis")  # it keeps tables of Unicode there

TINY = {
    "hidden_size": 64,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,  # heads of 32, the smallest that vLLM takes on a CPU
    "num_key_value_heads": 1,
    "max_position_embeddings": 1024,
}


@pytest.fixture(scope="session")
def tiny_tokenizer():
    """A byte-level tokenizer with Pocket's chat template, small enough to train in a moment."""
    from compositional.pocket.build_base_model import build_tokenizer

    return build_tokenizer(Random("tests"), documents=300)


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory, tiny_tokenizer) -> dict[str, Path]:
    """Folders of randomly initialised Llama, Qwen2 (with biases on q, k, v) and StableLM models."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config, StableLmConfig

    configs = {"llama": LlamaConfig, "qwen2": Qwen2Config, "stablelm": StableLmConfig}
    folders = {}
    for name, config_class in configs.items():
        torch.manual_seed(7)
        config = config_class(
            **TINY,
            vocab_size=len(tiny_tokenizer),
            tie_word_embeddings=name != "stablelm",
            bos_token_id=None,
            eos_token_id=tiny_tokenizer.eos_token_id,
            pad_token_id=tiny_tokenizer.pad_token_id,
            initializer_range=0.2,
        )
        model = AutoModelForCausalLM.from_config(config)
        for parameter_name, parameter in model.named_parameters():
            if parameter_name.endswith("proj.bias"):
                torch.nn.init.normal_(parameter, std=0.1)
        folders[name] = tmp_path_factory.mktemp("models") / name
        model.save_pretrained(folders[name])
        tiny_tokenizer.save_pretrained(folders[name])
    return folders


@pytest.fixture(scope="session")
def chat_model(tmp_path_factory, tiny_tokenizer) -> Path:
    """The folder of a Llama with SmolLM2's structure: ChatML, tied embeddings, nine query and three key-value heads."""
    from helpers.chat_models import build_chat_model, chat_tokenizer

    return build_chat_model(tmp_path_factory.mktemp("models") / "chat", chat_tokenizer(tiny_tokenizer))


@pytest.fixture(scope="session")
def engines():
    """One shared engine per architecture for the whole test run: engines("llama"). vLLM starts with the first use of it."""
    from concurrent.futures import ThreadPoolExecutor

    from compositional.prediction.vllm_backend import Engines

    pools: dict[str, Engines] = {}
    yield lambda architecture: pools.setdefault(architecture, Engines(highest_rank=16))
    with ThreadPoolExecutor() as threads:  # each takes seconds, of waiting
        list(threads.map(Engines.close, pools.values()))


@pytest.fixture(scope="session")
def single_tasks(tiny_models, tmp_path_factory) -> Callable[[str], Path]:
    """A workspace per architecture with a summarization and a translation adapter: single_tasks("llama"), to be copied."""
    from helpers.tiny_runs import train_single_tasks

    @cache
    def trained(architecture: str) -> Path:
        folder = tmp_path_factory.mktemp(f"{architecture}_single_tasks")
        train_single_tasks(command_in(folder), tiny_models[architecture])
        return folder

    return trained


@pytest.fixture(scope="session")
def finished(tiny_models, single_tasks, tmp_path_factory) -> Callable[[str], Path]:
    """A workspace per architecture in which every method has been run with transformers, to be read or copied."""
    from helpers.tiny_runs import METHODS, method_run

    @cache
    def with_all(architecture: str) -> Path:
        folder = tmp_path_factory.mktemp(f"{architecture}_finished")
        shutil.copytree(single_tasks(architecture), folder, dirs_exist_ok=True)
        run = command_in(folder)
        for name in METHODS:
            run(f"{method_run(tiny_models[architecture], name)} --prediction_backend transformers")
        return folder

    return with_all


def command_in(folder: Path) -> Callable[[str], None]:
    """The command `run_experiment.py`, in this process and in a workspace, with words given as one string."""
    import run_experiment

    return lambda flags: run_experiment.run([*shlex.split(flags), "--workspace", str(folder)])


@pytest.fixture
def workspace(tmp_path):
    """An empty workspace."""
    from compositional.core.workspace import Workspace

    return Workspace(tmp_path / "workspace")


@pytest.fixture
def run(workspace):
    """The command `run_experiment.py`, in this process and in the test's workspace, with words given as one string."""
    return command_in(workspace.root)


@pytest.fixture
def trained(workspace, single_tasks) -> None:
    """The tiny Llama's single-task adapters, sums and translation, in the test's workspace."""
    shutil.copytree(single_tasks("llama"), workspace.root)


@pytest.fixture
def judge(workspace) -> Callable[[str], dict[str, dict[str, Any]]]:
    """The command `llm_judge_eval.py`, in this process and in the test's workspace, with words given as one string."""
    import llm_judge_eval

    return lambda flags: llm_judge_eval.run([*shlex.split(flags), "--workspace", str(workspace.root)])


@pytest.fixture
def mistakes(judge) -> Callable[[str], list[str]]:
    """The mistakes that the command `llm_judge_eval.py` finds in a command line."""
    from compositional.core.errors import UserError

    def found(flags: str) -> list[str]:
        with pytest.raises(UserError) as caught:
            judge(flags)
        return list(caught.value.mistakes)

    return found


@pytest.fixture
def server(monkeypatch) -> Iterator[Any]:
    """A server behind a URL that answers as a test tells it to."""
    from helpers.judging import Server

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    running = Server()
    yield running
    running.close()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Samples of the real sources; tests that need them skip where they are absent."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"no samples of the real sources in {SHARED_DATA.name}")
    return SHARED_DATA


@pytest.fixture
def adapters(workspace):
    """A workspace with the stored adapters sums and trans, of Pocket's base model."""
    from helpers.planning import store

    for name in ("sums", "trans"):
        store(workspace, name)
    return workspace


@pytest.fixture
def paper_adapters(workspace):
    """A workspace with the paper's two single-task adapters."""
    from helpers.planning import STABLELM, store

    for name in ("dialogsum_lora_slm_v1", "tedtalks_es_lora_slm_v1"):
        store(workspace, name, STABLELM)
    return workspace


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """The tiniest models are faster with one thread than with more."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """A workspace with a few prepared sets of Pocket's, to be read only."""
    from compositional.core.workspace import Workspace
    from helpers.preparing import FEW, prepare

    workspace = Workspace(tmp_path_factory.mktemp("made") / "workspace")
    prepare(workspace, *FEW)
    return workspace


@pytest.fixture
def copied(made, tmp_path):
    """A copy of that workspace, to be changed."""
    from compositional.core.workspace import Workspace

    return Workspace(shutil.copytree(made.root, tmp_path / "copied"))


@pytest.fixture(scope="session")
def bare_python(tmp_path_factory) -> Path:
    """A Python with this environment's requirements, in which the package is not installed.

    A folder that a .pth file names is searched, but .pth files in it, such as that of an editable installation, are not read.
    """
    folder = tmp_path_factory.mktemp("bare")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    (libraries,) = folder.glob("lib/python*/site-packages")
    (libraries / "requirements.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "bin" / "python"
