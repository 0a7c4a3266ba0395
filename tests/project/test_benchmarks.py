"""The benchmarks' code runs, on small shapes: no figure of theirs is looked at."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import pytest

from benchmarks.real_size import SIZES, random_model, training_lines
from compositional.adapters.peft_folder import read_adapter
from helpers import PROJECT


@pytest.mark.slow
def test_training_and_calibration_of_the_real_size_benchmark_run_on_a_tiny_shape(tmp_path):
    size = replace(SIZES["tiny"], sequences=4, length=16)
    lines = training_lines(size, random_model("tiny", tmp_path / "model"), tmp_path)
    assert [line.split("|")[1].strip() for line in lines] == ["LoRA training, rank 32", "LC++ calibration, rank 4"]
    assert {factors.rank for factors in read_adapter(tmp_path / "adapter").factors.values()} == {68}


@pytest.mark.slow(20)
@pytest.mark.parametrize("row", ["floor", "LC++, not compiled", "earlier: LoRA, dropout 0.05", "PEFT and Trainer"])
def test_a_row_of_the_training_benchmark_runs_on_a_tiny_shape(row):
    command = [sys.executable, "-m", "benchmarks.training", "--shape", "tiny", "--updates", "3", "--batch", "4", "--child", row]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    measured = json.loads(done.stdout.splitlines()[-1])
    assert measured["seconds"] > 0
    assert measured["precision"] == "float32"
