"""The benchmarks' code runs, on small shapes: no figure of theirs is looked at."""

from __future__ import annotations

import csv
import json
import re
import shlex
import subprocess
import sys
from dataclasses import replace

import pytest

from benchmarks import chaos, on_device, parity, prediction
from benchmarks.real_size import SIZES, random_model, training_lines
from compositional.adapters.peft_folder import StoredAdapter, read_adapter
from compositional.core.errors import UserError
from compositional.data.synthetic_persona_chat import COLUMN, SOURCE
from compositional.report import efficiency
from helpers import PROJECT
from helpers.tiny_runs import method_run


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


@pytest.mark.slow(20)
def test_what_a_device_pays_is_measured_for_one_pass_and_for_two(tiny_models, trained, workspace, run, capsys, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    for method in ("multi_step", "lc", "lc_pp"):
        run(f"{method_run(tiny_models['llama'], method)}--prediction_backend transformers")
    words = "--experiments multi_step lc lc_pp lc_pp@3 --requests 2 --new_tokens 3 --dtype float16 --workspace"
    times = workspace.root / "times.json"
    assert on_device.main([*words.split(), str(workspace.root), "--json", str(times)]) == 0
    lines = [[cell.strip() for cell in line.split("|")] for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    header, *rows = lines
    assert [row[1] for row in rows] == ["multi_step", "lc", "lc_pp", "lc_pp@3"]
    assert header[6] == "of multi_step's"
    assert rows[0][6] == "1.00"
    extra = {row[1]: int(row[-2].replace(",", "")) for row in rows}
    assert extra["lc_pp@3"] < extra["lc"] < extra["lc_pp"]
    table = efficiency.run(["--model_name_or_path", str(tiny_models["llama"]), "--on_device", str(times)])
    of_table = {line.split("|")[1].strip(): line.split("|")[5].strip() for line in table.splitlines() if line.startswith("| ")}
    assert of_table["method"] == "time of a request"
    assert of_table["Multi-step LoRA usage"].endswith(" s (1.00×)")
    assert of_table["Learnable Calibration++"] == f"{rows[2][5].split(', ')[1]} s ({rows[2][6]}×)"
    assert of_table["Joint-expert LoRA"] == "—"
    assert len({row[-3] for row in rows}) <= 2  # one base, whose header differs where biases stand in a file of their own


@pytest.mark.slow(20)
def test_engines_and_precisions_are_compared_for_one_pass_and_for_two(tiny_models, trained, workspace, run, capsys, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    for method in ("multi_step", "lc"):
        run(f"{method_run(tiny_models['llama'], method)}--adapter_dtype float32 --prediction_backend transformers")
    rank = StoredAdapter(workspace.stored_model("lc")).rank
    ways = "transformers:float32 llama_cpp:float32 llama_cpp:q4_1"
    words = f"--experiments multi_step lc lc@{rank} lc@1 --ways {ways} --texts 5 --workspace"
    assert parity.main([*words.split(), str(workspace.root)]) == 0
    printed = capsys.readouterr().out
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in printed.splitlines() if line.startswith("| ")]
    equal, quality = lines[:5], lines[5:]
    assert equal[0] == quality[0] == ["experiment", "transformers float32", "llama_cpp float32", "llama_cpp q4_1"]
    assert [row[:3] for row in equal[1:4]] == [[name, "5 of 5", "5 of 5"] for name in ("multi_step", "lc", f"lc@{rank}")]
    assert equal[4][1] == equal[4][2] != "5 of 5"
    assert all(row[3] != "5 of 5" for row in equal[1:])
    assert all(row[1] == row[2] for row in quality[1:])
    assert quality[2][1] == quality[3][1]
    whole, cut = re.search(rf"Relative error of the cut: lc@{rank} (\S+), lc@1 (\S+)", printed).groups()
    assert float(whole) < 1e-3 < float(cut) < 1
    assert "Bytes of the base model: float32 " in printed


def test_what_can_not_be_compared_is_said_in_a_line(workspace, capsys):
    assert parity.main(["--experiments", "nothing", "--texts", "0", "--workspace", str(workspace.root)]) == 2
    said = capsys.readouterr().err
    assert "--texts 0: must be at least 1" in said
    assert "--experiments nothing: there are no results of it" in said


@pytest.mark.slow(5)
def test_a_rank_that_is_none_or_cuts_nothing_is_said_in_a_line(tiny_models, trained, workspace, run, capsys):
    run(f"{method_run(tiny_models['llama'], 'zero_shot')}--prediction_backend transformers")
    assert parity.main(["--experiments", "zero_shot@4", "zero_shot@0", "--workspace", str(workspace.root)]) == 2
    said = capsys.readouterr().err
    assert "--experiments zero_shot@4: it answers without an adapter" in said
    assert "--experiments zero_shot@0: a rank of at least 1 is expected after @" in said


def test_what_is_no_experiment_is_said_in_a_line(workspace, capsys):
    assert on_device.main(["--experiments", "nothing", "--workspace", str(workspace.root)]) == 2
    assert "--experiments nothing: there are no results of it" in capsys.readouterr().err


@pytest.mark.slow(20)
def test_rows_of_the_prediction_benchmark_run_on_a_tiny_model_and_give_the_same_texts(tmp_path, tiny_models, capsys):
    turns = "\n".join(f"User {1 + number % 2}: This is turn {number}." for number in range(9))
    names = ["user 1 personas", "user 2 personas", COLUMN]
    with open(tmp_path / SOURCE.files["validation"], "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([names, ["", "", turns]])
    words = ["--workload", "replies", "--model", str(tiny_models["llama"]), "--raw_data_dir", str(tmp_path), "--prompts", "8"]
    prediction.run([*words, "--rows", "pipeline in float32", "transformers backend"])
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in capsys.readouterr().out.splitlines() if "backend" in line]
    assert [(row[0], row[8]) for row in rows] == [("transformers backend", "100.0%")]


@pytest.mark.parametrize(
    ("words", "mistake"),
    [
        ("replies", "needs --raw_data_dir"),
        ("pocket --rows transformer", "did you mean transformers backend"),
        ("pocket --sub_tasks 0", "at least 1"),
    ],
)
def test_a_mistake_in_the_options_of_the_prediction_benchmark_is_one_line(words, mistake):
    with pytest.raises(UserError, match=mistake):
        prediction.parse(["--workload", *shlex.split(words)])


@pytest.mark.slow(60)
def test_a_training_that_is_disturbed_ends_in_the_undisturbed_ones_files():
    disturbances = ["killed", "file size limit", "read-only", "truncated", "started twice"]
    words = ["--minutes", "60", "--trials", str(len(disturbances)), "--commands", "train", "--disturbances", *disturbances]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.chaos", *words], cwd=PROJECT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    (row,) = [line.split("|")[1:-1] for line in done.stdout.splitlines() if line.startswith("| train")]
    assert [cell.strip() for cell in row][:3] == ["train", "5", "5"]


def test_chaos_tells_other_files_other_values_and_what_was_left_behind(tmp_path):
    results = tmp_path / "output" / "e" / "results.json"
    results.parent.mkdir(parents=True)
    (tmp_path / "stored_models").mkdir()
    weights = tmp_path / "stored_models" / "weights"
    weights.write_bytes(b"abc")
    results.write_text(json.dumps({"mean": [0.5, {"low": 1}], "seconds": {"total": 3}}))
    before = chaos.fingerprint(tmp_path)
    results.write_text(json.dumps({"mean": [0.5, {"low": 1}], "seconds": {"total": 4}}))
    assert chaos.fingerprint(tmp_path) == before
    results.write_text(json.dumps({"mean": [0.5, {"low": 2}]}))
    assert chaos.fingerprint(tmp_path) != before
    results.write_text(json.dumps({"mean": [0.5, {"low": 1}]}))
    weights.write_bytes(b"abd")
    assert chaos.fingerprint(tmp_path) != before


@pytest.mark.slow(30)
def test_experiments_in_one_process_leave_nothing_behind():
    command = [sys.executable, "-m", "benchmarks.soak", "--experiments", "15"]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert "| after 15 " in done.stdout
