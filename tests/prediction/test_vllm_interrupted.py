"""A run that is killed or interrupted leaves no process of vLLM behind."""

from __future__ import annotations

import signal
import subprocess
import time
from contextlib import suppress

import psutil
import pytest
import torch

from helpers.running import command, predicted_lines, start, wait_until

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="the engine on a CPU is tested; test_gpu.py is for GPUs")

PREDICT = (
    "--experiment_name sums --dataset pocket_dialogs --zero_shot --do_predict --max_test_examples 60 --max_new_tokens 80 "
    "--prediction_backend vllm --prediction_batch_size 2 "
)


def an_engine_has_begun(process: subprocess.Popen) -> bool:
    for child in psutil.Process(process.pid).children():
        with suppress(psutil.Error):  # a child of a moment
            if "--multiprocessing-fork" in child.cmdline():
                return True
    return False


def assert_all_end(processes: list[psutil.Process]) -> None:
    gone, alive = psutil.wait_procs(processes, timeout=60)
    for one in alive:
        one.kill()
    assert not alive
    assert len(gone) == len(processes)


@pytest.mark.slow(35)
@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, -9), (signal.SIGTERM, 143)], ids=["kill -9", "SIGTERM"])
def test_a_run_that_is_killed_while_it_predicts_takes_vllm_with_it(number, code, tiny_models, workspace, tmp_path):
    log = tmp_path / "log"
    process = start(command(tiny_models["llama"], workspace, PREDICT), log)
    wait_until(lambda: predicted_lines(workspace) >= 2, process, log)
    of_vllm = psutil.Process(process.pid).children(recursive=True)
    assert len(of_vllm) >= 2
    process.send_signal(number)
    assert process.wait(60) == code
    assert_all_end(of_vllm)
    assert 2 <= predicted_lines(workspace) < 60


@pytest.mark.slow(18)
def test_ctrl_c_is_heard_while_vllm_starts(tiny_models, workspace, tmp_path):
    log = tmp_path / "log"
    process = start(command(tiny_models["llama"], workspace, PREDICT), log)
    wait_until(lambda: an_engine_has_begun(process), process, log)
    time.sleep(1)  # into the call that waits for the engine
    of_vllm = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    assert log.read_text().strip().endswith("interrupted; the same command (without --overwrite) resumes from here")
    assert "Traceback" not in log.read_text()
    assert_all_end(of_vllm)
