"""The main table's methods as command lines: all of them hold together on every sub-task, and mean what their row says."""

from __future__ import annotations

import re
import shlex

import pytest

from compositional.calibration import LC_PLUS_PLUS, CalibrationSpec
from compositional.calibration.parameters import Calibration
from compositional.core.errors import UserError
from compositional.data import Locations, find_dataset
from compositional.experiment.arguments import AUXILIARY_LORA, CALIBRATION, JOINT_EXPERT, LORA, MERGE, MULTI_STEP, ZERO_SHOT
from compositional.paper import COMPOSITIONS, MAIN_BLOCK, PaperScores, paper_scores
from compositional.sweep.benchmarks import SubTask, all_sub_tasks
from compositional.sweep.rows import OWN_ROWS, PAPER_ROWS, SHARED, Naming, row_flags, shared_flags, strategy_row
from compositional.sweep.steps import Kind
from helpers import SHARED_DATA
from helpers.planning import plan_of, store

NAMING = Naming(prefix="pocket_")
SUB_TASKS = all_sub_tasks("pocket")
METHODS = {
    "Zero-shot": ZERO_SHOT,
    "Main-task LoRA": LORA,
    "Auxiliary-task LoRA": AUXILIARY_LORA,
    "In-context learning": ZERO_SHOT,
    "Multi-step LoRA usage": MULTI_STEP,
    "Joint-expert LoRA": JOINT_EXPERT,
    "Learnable Calibration": CALIBRATION,
    "Learnable Calibration++": CALIBRATION,
    "LC++ from multi-step targets": CALIBRATION,
}


def store_adapters(workspace, sub_task: SubTask) -> None:
    for dataset in (sub_task.main_set, sub_task.auxiliary_set):
        store(workspace, NAMING.adapter(dataset))


@pytest.mark.parametrize("sub_task", SUB_TASKS, ids=lambda one: one.name)
def test_every_methods_command_holds_together_on_every_sub_task(sub_task, workspace):
    store_adapters(workspace, sub_task)
    for row in (*PAPER_ROWS, *OWN_ROWS):
        plan = plan_of(shlex.join([*row_flags(row, sub_task, NAMING), "--do_predict"]), workspace)
        assert plan.method == METHODS.get(row.label, MERGE), row.label
        assert plan.task_set.tasks == (sub_task.main, sub_task.auxiliary)
        assert plan.learns == (row.kind is Kind.LEARN)
        assert plan.arguments.experiment_name == f"pocket_{sub_task.name}_{row.name}"


def test_the_rows_are_the_papers_in_its_order():
    assert tuple(row.label for row in PAPER_ROWS) == MAIN_BLOCK
    assert len(MAIN_BLOCK) + len(SHARED) == 18
    names = [row.name for row in (*PAPER_ROWS, *OWN_ROWS)]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("benchmark", ["pocket", "paper"])
def test_the_14_sub_tasks_name_sets_that_there_are(benchmark, tmp_path):
    sub_tasks = all_sub_tasks(benchmark)
    assert len({one.name for one in sub_tasks}) == 14
    locations = Locations(tmp_path, None)
    for one in sub_tasks:
        composed = find_dataset(one.composed_set, locations)
        assert (composed.tasks, composed.inputs_of) == ((one.main, one.auxiliary), one.main_set)
        assert find_dataset(one.main_set, locations).tasks == (one.main,)
        assert find_dataset(one.auxiliary_set, locations).tasks == (one.auxiliary,)


def test_the_first_of_several_sub_tasks_learns_the_shared_calibration_and_the_others_take_it(workspace):
    chosen = [SUB_TASKS[0], SUB_TASKS[4], SUB_TASKS[9]]
    for one in chosen:
        store_adapters(workspace, one)
    learned, *taken = shared_flags(LC_PLUS_PLUS, chosen, NAMING)
    plan = plan_of(shlex.join([*learned, "--do_predict"]), workspace)
    assert [one.name for one in plan.merge_sets] == [one.composed_set for one in chosen]
    assert [[one.name for one in merged] for merged in plan.merges] == [
        [NAMING.adapter(one.main_set), NAMING.adapter(one.auxiliary_set)] for one in chosen
    ]
    assert (plan.own_merge, plan.calibrates) == (0, True)
    folder = workspace.stored_model(plan.arguments.experiment_name)
    folder.mkdir()
    Calibration(CalibrationSpec(LC_PLUS_PLUS, True), {"model.layers.0.self_attn.q_proj": (5, 6)}).write(folder, "float16")
    for flags, one in zip(taken, chosen[1:], strict=True):
        plan = plan_of(shlex.join([*flags, "--do_predict"]), workspace)
        assert (plan.method, plan.calibrates, plan.learns) == (CALIBRATION, False, False)
        assert plan.arguments.calibrate == LC_PLUS_PLUS
        assert [[one.name for one in merged] for merged in plan.merges] == [
            [NAMING.adapter(one.main_set), NAMING.adapter(one.auxiliary_set)]
        ]
        assert plan.arguments.experiment_name == f"pocket_{one.name}_shared_by_3_{LC_PLUS_PLUS}_merge"


def test_the_papers_numbers_are_those_of_its_main_table():
    page = SHARED_DATA.parent / "PAPER.md"
    if not page.is_file():
        pytest.skip("the notes on the paper are not here")
    rows = re.findall(r"^\| ([^|]+) \| (?:yes|no) \|((?: [\d.]+ \|){8})$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert len(rows) == 18
    for label, numbers in rows:
        values = [float(number) for number in numbers.split("|")[:-1]]
        for column, tasks in enumerate(COMPOSITIONS):
            assert paper_scores(label, *tasks) == PaperScores(*values[2 * column : 2 * column + 2])
    assert paper_scores("exact mean", *COMPOSITIONS[0]) is None


def test_a_strategys_file_whose_name_can_be_no_experiments_is_refused(tmp_path):
    path = tmp_path / "line\rbreak.py"
    path.write_text("def merge(adapters, weights):\n    return adapters[0]\n")
    with pytest.raises(UserError, match="experiments are named after it: a name has no characters that can't be printed"):
        strategy_row(str(path))
    assert strategy_row(str(path.rename(tmp_path / "mine.py"))).label == "mine"
