"""The benchmarks' code runs, on small shapes: no figure of theirs is looked at."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.real_size import SHAPES, random_model, training_lines
from compositional.adapters.peft_folder import read_adapter


@pytest.mark.slow
def test_training_and_calibration_of_the_real_size_benchmark_run_on_a_tiny_shape(tmp_path):
    shape = replace(SHAPES["tiny"], sequences=4, length=16)
    lines = training_lines(shape, random_model(shape, tmp_path / "model"), tmp_path)
    assert [line.split("|")[1].strip() for line in lines] == ["LoRA training, rank 32", "LC++ calibration, rank 4"]
    assert {factors.rank for factors in read_adapter(tmp_path / "adapter").factors.values()} == {68}
