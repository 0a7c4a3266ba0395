"""Commands as plans, and adapters small enough to write by hand."""

from __future__ import annotations

import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from compositional.adapters.lora import LoraAdapter, LoraFactors
from compositional.adapters.peft_folder import write_adapter
from compositional.core.errors import UserError
from compositional.core.workspace import Workspace
from compositional.experiment.arguments import parse_arguments
from compositional.experiment.plan import Plan, make_plan
from helpers import PROJECT

STABLELM = "stabilityai/stablelm-2-1_6b-chat"
PATH = "model.layers.0.self_attn.q_proj"
ONE = "--experiment_name e --dataset pocket_dialogs "
COMPOSED = f"{ONE}--secondary_task translation --tgt_lang es --secondary_task_dataset pocket_dialogs_es "
MERGED = "--lora_merge_strategy linear --lora_merge_modules sums trans "
LEARNED = "--lora_merge_strategy learnable_calibration --lora_merge_modules sums trans "


def with_ctrl_c() -> None:
    """For a child process to run first: Ctrl-C reaches it even where the tests run in the background, which ignores it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def heavy_imports_of(command: str, words: list[str]) -> list[str]:
    """The heavy libraries that a command's `run` has imported when it ends with help or a user's mistake."""
    script = (
        f"import sys, {command}\n"
        "from compositional.core.errors import UserError\n"
        f"try:\n    {command}.run(sys.argv[1:])\n    sys.exit('it ran')\n"
        "except UserError:\n    pass\nexcept SystemExit as error:\n    assert error.code == 0, error.code\n"
        "heavy = {'torch', 'vllm', 'transformers', 'datasets', 'peft', 'evaluate', 'numpy', 'openai'}\n"
        "print(*sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script, *words], cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stderr.split()


def plan_of(flags: str, workspace: Workspace) -> Plan:
    return make_plan(*parse_arguments([*shlex.split(flags), "--workspace", str(workspace.root)]))


def mistakes_in(flags: str, workspace: Workspace) -> list[str]:
    with pytest.raises(UserError) as caught:
        plan_of(flags, workspace)
    return list(caught.value.mistakes)


def store(workspace: Workspace, name: str, base: str = "pocket", d_in: int = 6) -> Path:
    """A stored adapter of one small module."""
    factors = {PATH: LoraFactors(torch.ones(2, d_in), torch.ones(5, 2), 1.0)}
    write_adapter(workspace.stored_model(name), LoraAdapter(name, base, factors), "float16")
    return workspace.stored_model(name)
