"""Ablation tables: their rows as commands, and what the command makes of their results."""

from __future__ import annotations

import math
import re
import shlex

import numpy as np
import pytest

import make_tables
import run_sweep
from compositional.core.errors import Mistakes, UserError
from compositional.core.files import read_json
from compositional.experiment.arguments import CALIBRATION, parse_arguments
from compositional.report.plots import mean_and_reach, setting_plot, training_losses, training_plot
from compositional.report.table import make_table
from compositional.scoring.bootstrap import Resampler
from compositional.scoring.intervals import Interval
from compositional.sweep import execution
from compositional.sweep.ablations import ablations
from compositional.sweep.arguments import MAIN, TABLES, Selection
from compositional.sweep.benchmarks import PAPER, POCKET
from compositional.sweep.selection import choose
from helpers.planning import plan_of, store
from helpers.sweeps import ONE_SUB_TASK, TINY_WITHOUT_JOINT_EXPERT, mistakes_in, run_in_this_process, steps_of
from helpers.tables import asked, outcomes_at

ABLATIONS = [name for name in TABLES if name != MAIN]


def experiments_of(flags: str) -> dict[str, str]:
    """The commands of a sweep's experiments by name, the training of single-task adapters left out."""
    steps = steps_of(f"{ONE_SUB_TASK}{flags} --no_judge")
    return {step.name: shlex.join(step.flags[:-2]) for step in steps if step.predicts}


def value_of(command: str, flag: str) -> str:
    words = command.split()
    return words[words.index(flag) + 1]


@pytest.mark.parametrize("profile", [POCKET, PAPER], ids=["pocket", "paper"])
def test_every_ablation_has_a_flag_rows_of_their_own_and_one_that_the_others_are_compared_with(profile):
    found = ablations(profile)
    assert list(found) == ABLATIONS
    for ablation in found.values():
        labels = [row.label for row in ablation.rows]
        assert len(set(labels)) == len(labels) == len({row.name for row in ablation.rows})
        assert ablation.reference in labels
        assert bool(ablation.axis) == any(row.value for row in ablation.rows)


@pytest.mark.parametrize("table", ABLATIONS)
def test_every_command_holds_together_and_what_the_main_table_has_is_its_experiment(table, workspace):
    for name in ("pocket_dialogs_lora", "pocket_sentences_es_lora"):
        store(workspace, name)
    main, own = experiments_of("--methods paper own"), experiments_of(f"--table {table}")
    for name, command in own.items():
        plan = plan_of(command, workspace)
        assert (plan.method == CALIBRATION) == ("learnable_calibration" in name or "own_targets" in name)
        assert main.get(name, command) == command
    assert set(own) & set(main)
    assert set(own) - set(main)


@pytest.mark.parametrize(("profile", "models"), [(POCKET, "pocket"), (PAPER, "llama")], ids=["pocket", "paper"])
def test_fewer_examples_make_as_many_updates_and_more_are_seen_once(profile, models):
    counts = []
    for step in steps_of(f"{ONE_SUB_TASK}--table calibration_examples --models {models} --no_judge"):
        if "learnable_calibration" not in step.name:
            continue
        arguments, mistakes = parse_arguments([word for word in step.words if not word.startswith("@")])
        assert not mistakes
        counts.append(arguments.num_examples_merge)
        assert arguments.calibration_epochs == 1
        fewer = arguments.num_examples_merge < profile.usual_calibration_examples
        assert arguments.trainer == ([f"max_steps={profile.usual_updates}"] if fewer else [])
        if arguments.num_examples_merge == profile.usual_calibration_examples:
            assert "_examples_" not in step.name
            update = arguments.batch_size * (1 if models == "pocket" else arguments.gradient_accumulation_steps)
            assert profile.usual_updates == math.ceil(arguments.num_examples_merge / update)
    assert counts == 2 * list(profile.calibration_examples)


def test_a_users_budget_is_everyones_and_does_not_change_what_an_ablation_varies():
    commands = experiments_of("--table calibration_rank --learned_flags ' --num_examples_merge 7'")
    assert {value_of(command, "--num_examples_merge") for command in commands.values()} == {"7"}
    rate = POCKET.by_row["learnable_calibration_pp_merge"].split()[1]
    assert {value_of(command, "--calibration_learning_rate") for command in commands.values()} == {rate}
    for name, flag in [("learned_flags", "--calibration_rank"), ("experiment_flags", "--calibration_rank")]:
        assert mistakes_in(f"--table calibration_rank --{name} ' {flag} 3'") == [
            f"--{name}: {flag} is what --table calibration_rank varies"
        ]
    for table in ABLATIONS:
        varied = ablations(POCKET)[table].varies
        settings = " ".join(f"{row.setting} {row.flags}" for row in ablations(POCKET)[table].rows if row.like)
        assert any(flag in settings for flag in varied)


def test_rows_of_other_tables_are_mistakes():
    assert mistakes_in("--table calibration_rank --methods linear_merge --sub_tasks sum_tr_es") != []
    assert mistakes_in("--methods learnable_calibration_pp_rank_8_merge")[0].startswith(
        "--methods learnable_calibration_pp_rank_8_merge: did you mean learnable_calibration_pp_merge"
    )


@pytest.mark.slow(10)
def test_an_ablation_runs_by_one_command_and_its_table_says_what_it_varies(workspace, monkeypatch):
    monkeypatch.setattr(execution, "run_steps", run_in_this_process)
    rows = "--methods learnable_calibration_pp_rank_1_merge learnable_calibration_pp_rank_2_merge"
    flags = f"{TINY_WITHOUT_JOINT_EXPERT}{ONE_SUB_TASK}--table calibration_rank {rows} --workspace {workspace.root}"
    assert run_sweep.run(shlex.split(flags))
    folder = workspace.root / "output" / "tables"
    names = [f"calibration_rank{end}" for end in (".csv", ".html", ".md", ".tex", "_quality.svg", "_training.svg")]
    assert sorted(path.name for path in folder.iterdir()) == names
    table = (folder / "calibration_rank.md").read_text()
    one, two = (int(re.search(rf"\| LC\+\+, rank {rank} .*\| +([\d,]+) \|", table)[1].replace(",", "")) for rank in (1, 2))
    assert two == 2 * one > 0
    assert "Spearman" not in table
    results = read_json(workspace.results("pocket_sum_tr_es_learnable_calibration_pp_rank_1_merge"))
    assert results["training"]["losses"][0] == [1, results["training"]["first_loss"]]
    assert results["training"]["losses"][-1][1] == results["training"]["last_loss"]


@pytest.mark.parametrize("flags", ["", "--models llama ", "--seeds 3 "])
def test_both_kinds_of_targets_are_learned_from_the_same_inputs_in_as_many_updates(flags):
    commands = experiments_of(f"--table calibration_targets {flags}")
    pairs = {name: name.replace("learnable_calibration_pp", "own_targets_pp") for name in commands if "calibration_pp" in name}
    assert len(commands) == 1 + 2 * len(pairs) == 15
    for name, own_name in pairs.items():
        words = [[word for word in shlex.split(commands[one]) if word[0] != "@"] for one in (name, own_name)]
        (composed, _), (own, _) = map(parse_arguments, words)
        differing = {key for key, value in vars(own).items() if vars(composed)[key] != value}
        named = {"experiment_name", "calibration_targets", "lora_merge_strategy", "calibrate"}
        assert {"calibration_targets"} <= differing <= named


# ---- curves


def table_of(flags: dict, quality: dict[str, float], losses: dict[str, list[list]] | None = None):
    cells = asked(flags)
    found = outcomes_at(cells, quality, judged=False)
    for number, one in enumerate(found):
        one.results["training"] = {"losses": [[at, loss + number] for at, loss in (losses or {}).get(one.cell.label, [])]}
    return make_table("a table", "", cells, found, "", Resampler(50, 0)), found


def points_of(svg: str) -> list[tuple[float, float]]:
    """Where a figure's markers are, in its own units, y growing downwards."""
    return [(float(x), float(y)) for x, y in re.findall(r'<use xlink:href="#m[^"]*" x="([\d.]+)" y="([\d.]+)" style="fill: #', svg)]


def test_quality_is_drawn_at_the_value_of_each_row_and_missing_rows_are_left_out():
    flags = {"table": "calibration_rank", "sub_tasks": ["sum_tr_es"]}
    quality = {"LC++, rank 1": 0.2, "LC++, rank 4": 0.4, "LC++, rank 16": 0.8}
    table, _ = table_of(flags, quality)
    svg = setting_plot("rank", table, choose(Selection(**flags), Mistakes()).rows, "rank")
    markers = [(x, y) for x, y in points_of(svg)]
    assert len(markers) >= 3
    (x1, y1), (x4, y4), (x16, y16) = markers[:3]
    assert x4 - x1 == pytest.approx(x16 - x4, rel=1e-3)  # a logarithmic axis
    assert (y4 - y16) == pytest.approx(2 * (y1 - y4), rel=1e-3)


def test_losses_are_a_mean_over_the_updates_that_all_experiments_have():
    flags = {"sub_tasks": ["sum_tr_es", "sum_tr_fr"], "seeds": [0, 1]}
    label = "Learnable Calibration"
    table, found = table_of(flags, {label: 0.5, "Zero-shot": 0.1}, {label: [[1, 3.0], [10, 2.0]]})
    own = [number for number, one in enumerate(found) if one.cell.label == label]
    found[own[0]].results["training"]["losses"].append([20, 1.0])
    (column,) = table.columns
    updates, losses = training_losses(label, column, table, found)
    assert updates.tolist() == [1, 10]
    assert np.array_equal(losses, [[3.0 + number, 2.0 + number] for number in own])
    assert training_losses("Zero-shot", column, table, found) is None
    assert training_losses(label, column, table, [one for one in found if one is not found[own[1]]]) is None
    assert label in training_plot("training", table, found)


def test_a_mean_outside_its_interval_by_rounding_is_drawn():
    assert mean_and_reach(Interval(0.1, 0.1 + 1e-17, 0.1 - 1e-17)) == (10.0, (0.0, 0.0))
    assert mean_and_reach(Interval(0.5, 0.4, 0.7)) == (50.0, (pytest.approx(10.0), pytest.approx(20.0)))


def test_a_line_without_a_calibration_is_drawn_where_there_is_such_a_row():
    flags = {"table": "calibration_examples", "sub_tasks": ["sum_tr_es"]}
    rows = choose(Selection(**flags), Mistakes()).rows
    with_line, _ = table_of(flags, {"LC, 10 examples": 0.5, "the mean, not calibrated": 0.3})
    without, _ = table_of(flags, {"LC, 10 examples": 0.5})
    drawn = [">the mean, not calibrated<" in setting_plot("quality", table, rows, "x") for table in (with_line, without)]
    assert drawn == [True, False]


def test_there_is_no_training_plot_where_nothing_is_trained():
    table, found = table_of({"sub_tasks": ["sum_tr_es"]}, {"Zero-shot": 0.1})
    assert training_plot("training", table, found) is None


def test_a_table_without_any_of_its_experiments_is_a_mistake(workspace):
    with pytest.raises(UserError, match="has no test results of these experiments"):
        make_tables.run(["--table", "calibrated_merge", "--workspace", str(workspace.root)])
