"""The hub: found out at once when it can't be reached, and errors of the network in one line."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from compositional.core.errors import UserError
from compositional.core.hub import hub_errors
from compositional.data import load_hub_split
from compositional.data.dialogsum import SOURCE
from compositional.models.model import Model
from helpers import PROJECT

COMMANDS = {
    "prepare": ["-m", "compositional.preparation", "--only", "dialogsum", "dialogsum_es"],
    "experiment": ["run_experiment.py", "--experiment_name", "e", "--dataset", "dialogsum", "--zero_shot", "--do_predict"],
}


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_without_a_network_a_command_ends_at_once_with_a_line_for_each_thing_that_is_missing(command, tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    environment |= {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path), "NO_PROXY": "127.0.0.1"}
    model = ["--model_name_or_path", "nobody/nothing"] if command == "experiment" else []
    words = [sys.executable, *COMMANDS[command], *model, "--workspace", str(tmp_path / "workspace")]
    done = subprocess.run(words, cwd=PROJECT, env=environment, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    reached, *mistakes = done.stderr.splitlines()
    assert reached.startswith("http://127.0.0.1:9 can't be reached")
    assert len(mistakes) == 1
    assert mistakes[0].startswith("error: data set knkarthick/dialogsum (")
    assert "--raw_data_dir" in mistakes[0]
    assert not (tmp_path / "workspace").exists()


@pytest.mark.parametrize("error", [OSError, ValueError, *hub_errors()])
def test_errors_of_the_network_are_one_line(error, monkeypatch):
    def fail(*_, **__):
        raise error("the line is dead\nand more")

    monkeypatch.setattr("datasets.load_dataset", fail)
    with pytest.raises(UserError, match=r"could not be loaded from the hub \(the line is dead\)"):
        load_hub_split(SOURCE, "train")
    monkeypatch.setattr("transformers.AutoConfig.from_pretrained", fail)
    with pytest.raises(UserError, match="--model_name_or_path a/b could not be loaded: the line is dead"):
        _ = Model("a/b").config
