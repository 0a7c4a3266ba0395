"""Whole tables by one command: the graph of experiments, and the mistakes in asking for one."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import quickstart
from compositional.core.errors import UserError
from compositional.sweep import project
from compositional.sweep.arguments import parse_sweep_arguments
from compositional.sweep.plan import make_sweep_plan
from compositional.sweep.rows import OWN_ROWS, PAPER_ROWS
from compositional.sweep.steps import Artefact, Contents, Kind, Step, required_steps
from compositional.tasks import Task, all_tasks
from helpers import PROJECT
from helpers.planning import heavy_imports_of, plan_of
from helpers.sweeps import ONE_SUB_TASK, mistakes_in, steps_of

# ---- the graph


@pytest.mark.parametrize("flags", ["", "--methods paper own --seeds 0 1 2", "--models llama slm_v1 --methods paper own"])
def test_every_step_comes_after_those_that_it_needs_and_has_a_name_of_its_own(flags):
    steps = steps_of(flags)
    names = [step.name for step in steps]
    assert len(set(names)) == len(names)
    required = required_steps(steps)
    for number, step in enumerate(steps):
        assert set(required[step.name]) <= set(names[:number])


def test_the_whole_table_has_14_sub_tasks_of_18_methods_and_a_judgement_for_each():
    steps = steps_of("")
    judged = [step for step in steps if step.kind is Kind.JUDGE]
    trained = [step for step in steps if step.kind is Kind.TRAIN]
    assert (len(judged), len(trained), len(steps)) == (14 * 18, 9 + 14, 2 * 14 * 18 + 9)


def test_an_experiment_needs_only_the_adapters_that_it_names():
    needs = required_steps(steps_of(f"{ONE_SUB_TASK}--methods paper"))
    assert needs["pocket_sum_tr_es_main_lora"] == ("pocket_dialogs_lora",)
    assert needs["pocket_sum_tr_es_auxiliary_lora"] == ("pocket_sentences_es_lora",)
    assert needs["pocket_sum_tr_es_linear_merge"] == ("pocket_dialogs_lora", "pocket_sentences_es_lora")
    assert needs["pocket_sum_tr_es_joint_expert_lora"] == ()
    assert needs["judge pocket_sum_tr_es_main_lora"] == ("pocket_sum_tr_es_main_lora",)


def test_a_step_needs_what_its_row_names_whatever_an_experiment_is_called():
    """A sub-task, a model or a strategy may be called like an adapter, a flag's value or another experiment."""
    steps = {step.name: step for step in steps_of("--models dialogsum_lora --sub_tasks sum_tr_es sum_tr_fr --methods paper")}
    main = "dialogsum_lora_dialogsum_lora"
    stored = {name: {one.name for one in step.needs if one.contents is Contents.ADAPTER} for name, step in steps.items()}
    assert stored["sum_tr_es_main_lora_dialogsum_lora"] == {main}
    assert stored["sum_tr_es_linear_merge_dialogsum_lora"] == {main, "tedtalks_es_lora_dialogsum_lora"}
    assert stored["sum_tr_es_joint_expert_lora_dialogsum_lora"] == stored[main] == set()
    first = "sum_tr_es_shared_by_2_learnable_calibration_merge_dialogsum_lora"
    assert stored[first.replace("_es_", "_fr_")] == {main, "tedtalks_fr_lora_dialogsum_lora", first}


def test_what_a_step_makes_follows_from_its_kind():
    made = {(step.kind, frozenset(one.contents for one in step.makes)) for step in steps_of("--models slm_v1 --tasks sum_tr")}
    adapter, predictions = Contents.ADAPTER, Contents.PREDICTIONS
    predicting = {(kind, frozenset({predictions})) for kind in (Kind.PREDICT, Kind.IN_CONTEXT, Kind.MULTI_STEP)}
    both = {(kind, frozenset({adapter, predictions})) for kind in (Kind.TRAIN, Kind.MERGE, Kind.LEARN)}
    others = {
        (Kind.PREPARE, frozenset({Contents.DATA_SET})),
        (Kind.TRAIN, frozenset({adapter})),
        (Kind.JUDGE, frozenset({Contents.VERDICTS})),
    }
    assert made == predicting | both | others


def test_in_an_installed_package_commands_are_the_console_commands(monkeypatch, tmp_path):
    assert project.find_checkout(tmp_path / "site-packages" / "compositional") is None
    assert project.find_checkout(PROJECT / "src" / "compositional") == PROJECT
    monkeypatch.setattr(project, "CHECKOUT", None)
    assert project.working_folder() == Path.cwd()
    monkeypatch.setenv("PYTHONPATH", "one")
    assert project.python_path() == "one"
    monkeypatch.setattr("compositional.sweep.steps.CHECKOUT", None)
    steps = steps_of("--models slm_v1 --sub_tasks sum_tr_es --methods zero_shot")
    programs = {step.kind: str(step).split()[0] for step in steps}
    assert programs == {
        Kind.PREPARE: "prepare_compositional_task_data",
        Kind.TRAIN: "run_experiment",
        Kind.PREDICT: "run_experiment",
        Kind.JUDGE: "llm_judge_eval",
    }
    assert str(Step(Kind.TABLE, "", (), "table")).split()[0] == "make_tables"


def test_a_new_language_tone_or_task_is_no_part_of_the_benchmark(monkeypatch):
    new = (
        Task("translation", "auxiliary", "Translate.", "", "it", "in Italian", "it"),
        Task("tone_adjustment", "auxiliary", "Be kind.", "", "kind", "kindly"),
        Task("shortening", "auxiliary", "Shorten.", "", "short", "shortly"),
        Task("naming", "main", "Name it.", "", headline_metric="rougeL"),
    )
    before, commands = all_tasks(), [str(step) for step in steps_of("")]
    monkeypatch.setattr("compositional.tasks.all_tasks", lambda: (*new, *before))
    assert [str(step) for step in steps_of("")] == commands
    assert mistakes_in("--languages it") == ["--languages it: known: de, es, fr"]


def test_seeds_repeat_everything_that_rests_on_a_training_single_task_adapters_included():
    names = {step.name for step in steps_of(f"{ONE_SUB_TASK}--methods paper --seeds 0 1 --no_judge")}
    first = {name for name in names if not name.endswith("_seed1")}
    alone = {"pocket_sum_tr_es_zero_shot", "pocket_sum_tr_es_in_context"}
    assert names - first == {f"{name}_seed1" for name in first - alone}


def test_an_experiment_with_a_seed_uses_the_single_task_adapters_with_that_seed():
    methods = "zero_shot multi_step linear_merge lorahub_merge dam_merge joint_expert_lora shared_learnable_calibration_pp_merge"
    steps = steps_of(f"--sub_tasks sum_tr_es sum_tr_fr --methods {methods} --seeds 1 2 --no_judge")
    for step in steps:
        words = step.flags
        (seed,) = {word[-len("_seed1") :] for word in words if word.startswith("pocket_") and "_seed" in word}
        adapters = [word for word in words if word.startswith(("pocket_dialogs_lora", "pocket_sentences")) and "lora" in word]
        assert all(word.endswith(seed) for word in adapters), step
        learns = step.kind in (Kind.TRAIN, Kind.LEARN)
        own = [words[words.index(flag) + 1] for flag in ("--seed", "--data_seed") if flag in words]
        assert own == ([seed[-1], str(42 + int(seed[-1]))] if learns else []), step
    assert len([step for step in steps if step.name.endswith("zero_shot_seed1")]) == 2
    assert not [step for step in steps if step.name.endswith("zero_shot_seed2")]


def test_which_rows_rest_on_a_training_follows_from_their_commands():
    alone = {row.label for row in (*PAPER_ROWS, *OWN_ROWS) if not row.rests_on_training}
    assert alone == {"Zero-shot", "In-context learning"}


def test_the_papers_models_get_the_papers_names_data_and_budgets(workspace):
    steps = {
        step.name: step for step in steps_of("--models slm_v1 --sub_tasks sum_tr_es reply_tone_witty --data_flags=' --dry_run'")
    }
    assert steps["data"].kind is Kind.PREPARE
    assert str(steps["data"]).startswith("bash prepare_compositional_task_data.sh --workspace ")
    assert "--dry_run" in steps["data"].flags
    assert set(steps["data"].flags[steps["data"].flags.index("--only") + 1 :]) == {
        *("dialogsum", "tedtalks_es", "dialogsum_es", "synthetic_persona_chat", "content_rephrasing_witty"),
        "synthetic_persona_chat_witty",
    }
    trained = steps["dialogsum_lora_slm_v1"]
    assert "stabilityai/stablelm-2-1_6b-chat" in trained.flags
    assert trained.needs == (Artefact(Contents.DATA_SET, "dialogsum"),)
    assert required_steps(list(steps.values()))[trained.name] == ("data",)
    assert "--gradient_accumulation_steps" not in trained.flags
    tone = steps["content_rephrasing_witty_lora_slm_v1"].flags
    assert tone[tone.index("--gradient_accumulation_steps") + 1] == "4"
    learned = steps["sum_tr_es_learnable_calibration_pp_merge_slm_v1"].flags
    assert learned[learned.index("--num_examples_merge") + 1] == "10000"
    plan = plan_of(shlex.join(trained.flags[:-2]), workspace)
    assert plan.written_adapter == "dialogsum_lora_slm_v1"


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("--methods zero", ["--methods zero: did you mean zero_shot?"]),
        ("--tones x", ["--tones x: known: casual, paraphrase, professional, witty"]),
        ("--languages it es", ["--languages it: known: de, es, fr"]),
        ("--sub_tasks sum_tr_it", ["--sub_tasks sum_tr_it: did you mean sum_tr_fr or sum_tr_es or sum_tr_de?"]),
        ("--models pocket llama", ["--models: pocket has data of its own, and stands alone"]),
        ("--seeds 1 1", ["--seeds: a seed stands there twice"]),
        ("--cpus_per_task 0", ["--cpus_per_task 0: must be at least 1"]),
        ('--judge_flags "\'"', ["--judge_flags ': No closing quotation"]),
        ("--sub_tasks sum_tr_es sum_tr_es", ["--sub_tasks: a sub-task stands there twice"]),
        (
            "--sub_tasks sum_tr_es --methods shared_learnable_calibration_merge",
            ["--methods shared_learnable_calibration_merge: there is one sub-task, and nothing to share a calibration with"],
        ),
        ("--seeds 99999999999", ["--seeds: must be at least 0 and below 2^32 - 42"]),
        ("--dry_run --print_commands shell", ["--dry_run contradicts --print_commands: use one of them"]),
        ("--workspace /etc/passwd", ["--workspace /etc/passwd: not a folder"]),
        ("--judge_flags ' @absent.txt'", ["--judge_flags  @absent.txt: @absent.txt: No such file or directory"]),
        ("--experiment_flags ' --experiment_name x'", ["--experiment_flags: --experiment_name is the sweep's to say"]),
        (
            "--learned_flags ' --seet 3'",
            ["--learned_flags: unknown flag --seet: did you mean --seed or --dataset or --data_seed?"],
        ),
        ("--seeds 0 1 --learned_flags ' --data_seed 3'", ["--learned_flags: --data_seed contradicts --seeds"]),
        ("--seeds 1 --single_task_flags ' --seed 3'", ["--single_task_flags: --seed contradicts --seeds"]),
        ("--data_flags ' --dry_run'", ["--data_flags: Pocket's data are made as they are read"]),
        ("--no_judge --judge_flags ' --seed 1'", ["--judge_flags: --no_judge judges nothing"]),
        ("--judge_flags ' --stage valid'", ["--judge_flags: --stage is the sweep's to say"]),
        (
            "--table calibration_rank --joint_expert_flags ' --bf16'",
            ["--joint_expert_flags: --table calibration_rank has no joint expert"],
        ),
        ("--method zero_shot", ["unknown flag --method: did you mean --methods or --models or --tones?"]),
    ],
)
def test_mistakes_are_lines(flags, expected):
    assert mistakes_in(flags) == expected


def test_flags_of_ones_own_count_more_than_the_benchmarks():
    def last_of(name: str, flag: str, flags: str) -> str:
        (step,) = [step for step in steps_of(f"--sub_tasks sum_tone_witty {flags}") if step.name == f"pocket_{name}"]
        return step.flags[len(step.flags) - step.flags[::-1].index(flag)]

    calibration, rate = "sum_tone_witty_learnable_calibration_pp_merge", "--calibration_learning_rate"
    assert last_of(calibration, rate, "") == "1e-2"
    assert last_of(calibration, rate, f"--learned_flags ' {rate} 1e-3'") == "1e-3"
    adapter, count = "sentences_witty_lora", "--max_train_examples"
    assert last_of(adapter, count, "") == "3200"
    assert last_of(adapter, count, f"--single_task_flags ' {count} 7'") == "7"
    assert last_of(adapter, count, f"--experiment_flags ' {count} 9'") == "9"
    steps = steps_of("--models slm_v1 --sub_tasks sum_tone_witty --single_task_flags ' --gradient_accumulation_steps 2'")
    assert not [step for step in steps if step.flags.count("--gradient_accumulation_steps") > 1]
    options = "--no_judge --learned_flags ' --lora_merge_options cosine=0.1'"
    (dam,) = [step.flags for step in steps_of(f"{ONE_SUB_TASK}--methods dam_merge {options}") if "dam" in step.name]
    assert [word for word in dam if word.startswith(("learning_rate=", "cosine="))] == ["learning_rate=5e-2", "cosine=0.1"]


def test_on_pocket_a_sub_tasks_experiments_share_a_process_and_elsewhere_trainings_have_their_own():
    methods = "--methods main_lora joint_expert_lora learnable_calibration_merge shared_learnable_calibration_merge --seeds 0 1"
    pocket, paper = (
        {step.name.removeprefix("pocket_").removesuffix("_slm_v1"): step.group for step in steps_of(f"{flags} {methods}")}
        for flags in ("--sub_tasks sum_tr_es sum_tr_fr", "--models slm_v1 --sub_tasks sum_tr_es sum_tr_fr")
    )
    trained = ("sum_tr_es_joint_expert_lora", "sum_tr_es_learnable_calibration_merge")
    assert {pocket[name] for name in ("sum_tr_es_main_lora", *trained)} == {"sum_tr_es"}
    assert {pocket[f"{name}_seed1"] for name in trained} == {"sum_tr_es_seed1"}
    assert len({paper[name] for name in ("sum_tr_es_main_lora", *trained)}) == 3
    for groups in (pocket, paper):
        shared = {
            group
            for name, group in groups.items()
            if name.startswith(("sum_tr_es_shared", "sum_tr_fr_shared")) and "seed" not in name
        }
        assert len(shared) == 1
    assert pocket["judge pocket_sum_tr_es_main_lora"] == "judge"


def test_the_table_of_a_sweep_has_its_selection_and_its_judge():
    def table_of(flags: str, judged: bool = True) -> str:
        return str(make_sweep_plan(*parse_sweep_arguments(shlex.split(flags))).table(judged))

    assert table_of(f"{ONE_SUB_TASK}--seeds 0 1") == "python make_tables.py --sub_tasks sum_tr_es --seeds 0 1 --workspace ."
    judge = f"{ONE_SUB_TASK}--table calibration_rank --judge_flags ' --judge_model_name_or_path some/judge'"
    expected = "python make_tables.py --table calibration_rank --sub_tasks sum_tr_es --judge some--judge --workspace ."
    assert table_of(judge) == expected
    assert table_of(judge, judged=False) == expected.replace(" --judge some--judge", "")
    judges = [make_sweep_plan(*parse_sweep_arguments(["--models", models])).choice.judge_name for models in ("pocket", "llama")]
    assert judges == ["pocket", "meta-llama--Llama-3.1-70B-Instruct"]


def test_a_calibration_is_shared_by_two_sub_tasks_at_least():
    alone, both = (
        [step.name for step in steps_of(f"--sub_tasks {names} --methods paper") if "shared" in step.name]
        for names in ("sum_tr_es", "sum_tr_es sum_tr_fr")
    )
    assert (len(alone), len(both)) == (0, 2 * 2 * 2)
    whole = [step.name for step in steps_of("--methods paper") if "shared" in step.name]
    assert not set(both) & set(whole)  # a calibration that others share is another experiment


@pytest.mark.slow
@pytest.mark.parametrize("words", [["--help"], ["--methods", "zero"], ["--dry_run"]])
def test_answers_that_run_nothing_import_nothing_heavy(words):
    if words == ["--dry_run"]:
        script = (
            "import sys, run_sweep; run_sweep.run(['--dry_run']); print(*({'torch', 'ray'} & set(sys.modules)), file=sys.stderr)"
        )
        done = subprocess.run([sys.executable, "-c", script], cwd=PROJECT, capture_output=True, text=True, check=True)
        assert done.stderr.strip() == ""
        assert done.stdout.startswith("[1/514] python run_experiment.py @configs/pocket.txt --experiment_name pocket_dialogs_lora ")
    else:
        assert heavy_imports_of("run_sweep", words) == []


def test_quickstart_passes_overwrite_on_to_its_commands(monkeypatch):
    ran = []
    monkeypatch.setattr("run_experiment.run", lambda words, engines: ran.append(words))
    monkeypatch.setattr("llm_judge_eval.run", lambda words: sys.exit(" ".join(words)))
    for words, given in (([], False), (["--overwrite"], True)):
        ran.clear()
        with pytest.raises(SystemExit) as judged:
            quickstart.run(words)
        assert len(ran) == 2 + 8
        assert all(("--overwrite" in flags) == given for flags in [*ran, str(judged.value).split()])
    with pytest.raises(UserError, match="unknown flag --overwrit"):
        quickstart.run(["--overwrit"])
