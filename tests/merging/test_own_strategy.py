"""A merge method of one's own: the file that docs/adding_a_method.md shows, found by its path, run by the real command."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import torch

from compositional.adapters.peft_folder import read_adapter
from compositional.core.errors import UserError
from compositional.core.files import read_json
from compositional.sweep.arguments import parse_sweep_arguments
from compositional.sweep.plan import make_sweep_plan
from compositional.sweep.rows import strategy_row
from compositional.sweep.selection import cells
from compositional.sweep.steps import Kind
from helpers.planning import COMPOSED, mistakes_in, plan_of, store
from helpers.tiny_runs import COMPOSED as COMPOSED_FLAGS
from helpers.tiny_runs import MODULES, TINY_RUN
from scripts.document import DOCS


@pytest.fixture
def strategy(tmp_path) -> Path:
    """The method that the page shows, as a file outside the project."""
    (code,) = re.findall(r"```python\n(.*?)```", (DOCS / "adding_a_method.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len(code.splitlines()) <= 30
    path = tmp_path / "balanced.py"
    path.write_text(code, encoding="utf-8")
    return path


@pytest.mark.slow
def test_a_method_of_ones_own_is_found_by_its_path_merged_and_calibrated(strategy, run, trained, workspace):
    merged = f"{TINY_RUN}{COMPOSED_FLAGS}{MODULES}--lora_merge_strategy {strategy} --lora_merge_options floor=1e-3 --do_predict "
    run(f"{merged}--experiment_name mine")
    learned = "--calibrate learnable_calibration_pp --merge_datasets pocket_dialogs_es --num_examples_merge 16"
    run(f"{merged}--experiment_name calibrated {learned}")
    one, two, mine = (read_adapter(workspace.stored_model(name)) for name in ("sums", "translation", "mine"))
    for path, factors in mine.factors.items():
        deltas = [adapter.factors[path].delta() for adapter in (one, two)]
        norms = [max(delta.norm().item(), 1e-3) for delta in deltas]
        expected = sum(0.5 * delta * sum(norms) / 2 / norm for delta, norm in zip(deltas, norms, strict=True))
        torch.testing.assert_close(factors.delta(), expected, rtol=2e-2, atol=1e-4)
    assert read_json(workspace.results("calibrated"))["stages"]["test"]["counts"]["examples"] == 6
    strategy.write_text(strategy.read_text() + "# another method now\n", encoding="utf-8")
    with pytest.raises(UserError, match="hash_of_merge_strategy was"):
        run(f"{merged}--experiment_name mine --max_test_examples 5")


def test_a_method_of_ones_own_is_a_row_of_the_main_table(strategy, workspace, monkeypatch):
    for name in ("pocket_dialogs_lora", "pocket_sentences_es_lora"):
        store(workspace, name)
    monkeypatch.chdir(strategy.parent)
    flags = "--sub_tasks sum_tr_es --methods linear_merge balanced.py peft_svd --no_judge"
    plan = make_sweep_plan(*parse_sweep_arguments(flags.split()))
    merges = {step.name: step for step in plan.steps if step.kind in (Kind.MERGE, Kind.LEARN)}
    names = ["linear_merge", "merge_by_balanced", "merge_by_peft_svd"]
    assert list(merges) == [f"pocket_sum_tr_es_{name}" for name in names]
    asked = plan_of(shlex.join(merges["pocket_sum_tr_es_merge_by_balanced"].flags[1:-2]), workspace)
    assert asked.arguments.lora_merge_strategy == str(strategy)
    assert [cell.label for cell in cells(plan.choice)] == ["Linear merge", "balanced", "peft_svd"]
    assert str(strategy) in plan.table().words


@pytest.mark.parametrize(("strategy_name", "learns"), [("dam", True), ("dam_composed", True), ("lorahub", False), ("slerp", False)])
def test_a_strategy_that_learns_has_the_budget_and_seeds_of_what_learns_unless_it_says_how_many_it_wants(strategy_name, learns):
    row = strategy_row(strategy_name)
    assert (row.learns, "--merge_datasets" in row.flags) == (learns, strategy_name != "slerp")


def test_two_strategies_of_one_name_are_a_mistake(strategy):
    other = strategy.parent / "other" / strategy.name
    other.parent.mkdir()
    other.write_text(strategy.read_text())
    with pytest.raises(UserError, match="--methods: two strategies are called balanced"):
        make_sweep_plan(*parse_sweep_arguments(["--methods", str(strategy), str(other), "--sub_tasks", "sum_tr_es"]))


def test_a_file_that_is_not_there_is_one_mistake():
    with pytest.raises(UserError) as caught:
        make_sweep_plan(*parse_sweep_arguments(["--methods", "nowhere.py", "--sub_tasks", "sum_tr_es"]))
    assert caught.value.mistakes == ("--lora_merge_strategy nowhere.py: there is no such file",)


def test_a_file_without_a_merge_or_with_an_unknown_option_is_a_mistake(strategy, adapters):
    flags = f"{COMPOSED}--lora_merge_modules sums trans --do_predict --lora_merge_strategy "
    (line,) = mistakes_in(f"{flags}{strategy} --lora_merge_options flor=1", adapters)
    assert line.endswith("has no such option: did you mean floor?")
    for option in ("floor: bool = True", "floor"):
        strategy.write_text(f"def merge(adapters, weights, *, {option}):\n    return adapters[0]\n")
        (line,) = mistakes_in(f"{flags}{strategy}", adapters)
        assert line.endswith("option floor needs a default that is a number or a text")
    strategy.write_text("x = 1\n")
    (line,) = mistakes_in(f"{flags}{strategy}", adapters)
    assert line == f"--lora_merge_strategy {strategy}: the file has no function merge(adapters, weights)"
