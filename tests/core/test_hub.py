"""The hub: found out at once when it can't be reached, and errors of the network in one line."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from http.client import BadStatusLine

import pytest
from huggingface_hub import constants

from compositional.core import hub
from compositional.core.errors import UserError
from compositional.core.hub import hub_errors, is_offline, use_cache_without_network
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


@pytest.fixture
def without_settings(monkeypatch) -> None:
    """As where the user has set nothing about the hub, and its libraries are not imported yet."""
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_ENDPOINT"):
        monkeypatch.setenv(name, "")  # so that what the test leaves is undone
        monkeypatch.delenv(name)
    monkeypatch.delitem(sys.modules, "huggingface_hub", raising=False)


@pytest.mark.parametrize(
    "endpoint", ["hf-mirror.com", "hf-mirror.com:443/", "", "ftp://hf-mirror.com", "https://", "https://a:port"]
)
def test_an_endpoint_that_is_no_address_is_one_line(endpoint, without_settings, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    with pytest.raises(UserError) as caught:
        use_cache_without_network()
    assert caught.value.mistakes == (f"HF_ENDPOINT {endpoint}: not an address such as https://huggingface.co",)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    use_cache_without_network()


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:9", "http://two words", "http://a..b", f"http://{'a' * 64}"])
def test_an_address_without_a_hub_is_out_of_reach(endpoint, without_settings, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    monkeypatch.setenv("NO_PROXY", "*")
    use_cache_without_network()
    assert is_offline()


@pytest.mark.parametrize("error", [BadStatusLine("SSH-2.0"), TimeoutError(), ConnectionResetError()])
def test_a_server_that_is_no_hub_is_out_of_reach(error, without_settings, monkeypatch):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(hub, "urlopen", fail)
    use_cache_without_network()
    assert is_offline()


@pytest.mark.parametrize("value", ["1", "ON", "yes", "True", "true", "0", "", "off", "2"])
@pytest.mark.parametrize("name", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
def test_offline_means_what_it_means_to_the_hubs_library(name, value, without_settings, monkeypatch):
    monkeypatch.setenv(name, value)
    assert is_offline() == runpy.run_path(constants.__file__)["HF_HUB_OFFLINE"]


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
