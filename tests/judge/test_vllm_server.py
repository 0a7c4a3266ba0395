"""vLLM's own server as a judge behind a URL."""

from __future__ import annotations

import os
import shlex
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
import torch

from compositional.data import Dataset, Locations, find_dataset
from compositional.judge.question import Request, verdict_of
from compositional.judge.url_judge import UrlJudge
from compositional.models.model import POCKET_FOLDER
from helpers.judging import ADVERSARIAL

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="the engine on a CPU is tested; test_gpu.py is for GPUs")


@pytest.fixture
def dataset() -> Dataset:
    return find_dataset("pocket_dialogs_es", Locations(Path("data"), None))


@pytest.fixture
def server(tmp_path):
    """The URL of vLLM's own server with Pocket's base model."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    flags = (
        f"--model {POCKET_FOLDER} --served-model-name pocket-lm --dtype float32 --enforce-eager --max-model-len 1024 --port {port}"
    )
    words = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", *shlex.split(flags), "--host", "127.0.0.1"]
    environment = os.environ | {"VLLM_NO_USAGE_STATS": "1", "VLLM_CPU_KVCACHE_SPACE": "1"}
    with open(tmp_path / "server.log", "wb") as log:
        process = subprocess.Popen(words, stdout=log, stderr=subprocess.STDOUT, env=environment)
    url = f"http://127.0.0.1:{port}/v1"
    try:
        while not answers(f"{url}/models"):
            assert process.poll() is None, (tmp_path / "server.log").read_text()[-2000:]
            time.sleep(0.5)
        yield url
    finally:
        process.terminate()
        process.wait(60)


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return response.status == 200
    except OSError:
        return False


@pytest.mark.slow(36)
def test_vllms_own_server_judges_behind_a_url(server, dataset):
    judge = UrlJudge(server, "pocket-lm")
    assert judge.identity["root"] == str(POCKET_FOLDER)
    requests = [Request(dataset, "test", "Tom: Hi!", output) for output in [*ADVERSARIAL, "ja " * 3334]]
    *replies, too_long = judge.replies(requests)
    assert [reply.text in ("yes", "no") for reply in replies] == [True] * len(ADVERSARIAL)
    assert too_long.failure == "the server refuses the request"
    assert "1024" in too_long.text
    assert verdict_of("x", too_long).verdict is None
