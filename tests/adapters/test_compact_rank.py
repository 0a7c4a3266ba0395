"""Merges that are cut to a rank: by value, by the command, and in an export."""

from __future__ import annotations

import math
import shlex

import pytest
import torch

import export
from compositional.adapters.low_rank import compacted
from compositional.adapters.peft_folder import StoredAdapter, read_adapter
from compositional.core.files import read_json
from compositional.export.plan import RECORD
from compositional.merging import merge
from helpers.composing import SPANISH, mistake_in, store, two_of

COMPACT = f"{SPANISH}--experiment_name e --lora_merge_strategy linear --lora_merge_modules one two "
LC_PLUS_PLUS = (
    "--calibrate learnable_calibration_pp --for_each_component --merge_datasets pocket_dialogs_es --num_examples_merge 8 "
)


@pytest.fixture(autouse=True)
def on_a_cpu(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.parametrize("rank", [1, 3, 5, 9])
def test_each_update_is_the_nearest_of_its_rank_and_the_error_is_that_of_all(rank, tiny_models):
    exact = merge("linear", two_of(tiny_models["llama"]), [0.7, -0.4])
    compact = compacted(exact, rank)
    lost = whole = 0.0
    for path, factors in exact.factors.items():
        delta, found = factors.delta().double(), compact.factors[path]
        U, S, Vh = torch.linalg.svd(delta, full_matrices=False)
        torch.testing.assert_close(found.delta().double(), (U[:, :rank] * S[:rank]) @ Vh[:rank], rtol=1e-3, atol=1e-5)
        assert found.rank == min(rank, 5)
        lost, whole = lost + S[rank:].square().sum().item(), whole + S.square().sum().item()
    assert compact.report["relative_compaction_error"] == pytest.approx(math.sqrt(lost / whole), rel=1e-3, abs=1e-6)
    assert compact.report["compact_rank"] == rank


@pytest.mark.slow
def test_a_merge_with_its_calibration_is_stored_in_the_rank_that_was_asked_for(run, workspace, tiny_models):
    store(workspace, two_of(tiny_models["llama"]))
    run(f"{COMPACT}{LC_PLUS_PLUS}--do_predict")
    run(f"{COMPACT}{LC_PLUS_PLUS}--do_predict --experiment_name compact --compact_rank 3")
    exact = read_adapter(workspace.stored_model("e"))
    assert tuple(StoredAdapter(workspace.stored_model(name)).rank for name in ("e", "compact")) == (9, 3)
    expected = compacted(exact, 3)
    for path, factors in read_adapter(workspace.stored_model("compact")).factors.items():
        torch.testing.assert_close(factors.delta(), expected.factors[path].delta(), rtol=1e-2, atol=1e-3)
    training = read_json(workspace.results("compact"))["training"]
    assert training["relative_compaction_error"] == pytest.approx(expected.report["relative_compaction_error"], rel=1e-3)
    assert training["updates"] > 0
    before = mistake_in(f"{COMPACT}{LC_PLUS_PLUS}--do_predict --experiment_name compact --compact_rank 2", run, workspace)
    assert "compact_rank was 3, is 2" in before


@pytest.mark.slow
def test_an_export_can_be_cut_without_making_the_experiment_anew(run, workspace, tiny_models):
    store(workspace, two_of(tiny_models["llama"]))
    run(f"{COMPACT}--do_predict")
    asked = f"--experiment_name e --to peft --compact_rank 2 --dtype float32 --workspace {workspace.root}"
    folder = export.run(shlex.split(asked))
    expected = compacted(read_adapter(workspace.stored_model("e")), 2)
    record = read_json(folder / RECORD)
    (adapter,) = record["adapters"]
    assert (adapter["rank"], adapter["compact_rank"]) == (2, 2)
    assert adapter["relative_compaction_error"] == pytest.approx(expected.report["relative_compaction_error"], rel=1e-4)
    for path, factors in read_adapter(folder).factors.items():
        torch.testing.assert_close(factors.delta(), expected.factors[path].delta(), rtol=1e-4, atol=1e-6)


def test_only_a_merge_has_a_rank_to_cut(run, workspace, tiny_models):
    store(workspace, two_of(tiny_models["llama"]))
    asked = f"{SPANISH}--experiment_name e --stored_model_name one --do_predict --compact_rank 3"
    assert mistake_in(asked, run, workspace) == "--compact_rank needs --lora_merge_strategy: it is for merges"
    assert "must be at least 1" in mistake_in(f"{COMPACT}--do_predict --compact_rank 0", run, workspace)
