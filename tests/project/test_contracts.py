"""What every file in an open folder promises, whichever files there are: merge strategies, data sets, tasks, text models."""

from __future__ import annotations

import importlib
import inspect
import json
import pkgutil
from pathlib import Path

import pytest

import compositional.data
from compositional.core.errors import UserError
from compositional.data import SPLITS, Dataset, Locations, all_datasets
from compositional.judge.question import judge_prompt
from compositional.merging import Strategy, strategies
from compositional.paper import LANGUAGES, TONES
from compositional.preparation.plan import make_preparation_plan, parse_preparation_arguments
from compositional.preparation.text_models import TextModel, TextModelSettings, text_model_files
from compositional.scoring.score import METRIC_LABELS
from compositional.sweep.benchmarks import all_sub_tasks
from compositional.tasks import Task, all_tasks, find_task

SETS = all_datasets(Locations(Path("nowhere"), None))
TEXT_MODELS = text_model_files()


def named(task: Task) -> str:
    return f"{task.name}_{task.variant}" if task.variant else task.name


# ---- tasks


@pytest.mark.parametrize("task", all_tasks(), ids=named)
def test_a_task_says_what_a_model_and_a_judge_are_asked(task):
    assert find_task(task.name, task.variant) is task, "two tasks have one name and variant"
    assert task.role in ("main", "auxiliary")
    assert task.instruction
    assert task.criterion in judge_prompt((task,), "a text", "another")
    assert task.headline_metric in METRIC_LABELS
    if task.role == "auxiliary":
        assert task.variant
        assert task.continuation in judge_prompt((find_task("summarization"), task), "a text", "another")


@pytest.mark.parametrize("task", all_tasks(), ids=named)
def test_the_language_of_a_task_can_be_told(task):
    from lingua import IsoCode639_1

    assert getattr(IsoCode639_1, task.language.upper())


# ---- data sets


def test_names_of_sets_are_used_once():
    files = [one.name for one in pkgutil.iter_modules(compositional.data.__path__)]
    modules = [importlib.import_module(f"compositional.data.{name}") for name in files]
    names = [dataset.name for module in modules for dataset in module.datasets(Locations(Path("nowhere"), None))]
    assert sorted(names) == sorted(SETS)


@pytest.mark.parametrize("dataset", SETS.values(), ids=SETS)
def test_a_set_says_what_it_is(dataset: Dataset):
    assert all(task in all_tasks() for task in dataset.tasks)
    assert [task.role for task in dataset.tasks[1:]] == ["auxiliary"] * (len(dataset.tasks) - 1)
    if dataset.is_compositional:
        assert dataset.main_task.role == "main"
        assert SETS[dataset.inputs_of].tasks == (dataset.main_task,)
        assert SETS[dataset.inputs_of].source == dataset.source
    else:
        assert dataset.inputs_of == dataset.name
    source = dataset.source
    assert all((source.title, source.columns, source.example, source.licence, source.split_rule))
    assert tuple(source.rows) == SPLITS
    assert set(source.files) in (set(), set(SPLITS))
    assert (source.hub_id is None) == (source.revision is None)
    assert dataset.benchmark in ("paper", "pocket", None)
    assert dataset.folder.name == dataset.name


@pytest.mark.parametrize("dataset", [one for one in SETS.values() if one.rewritten], ids=lambda one: one.name)
def test_a_text_model_can_make_a_rewritten_set(dataset: Dataset):
    assert any(dataset.tasks[-1].name in module.TASKS for module in TEXT_MODELS.values())


def test_the_papers_sets_are_those_of_its_languages_and_tones():
    published = {"dialogsum", "synthetic_persona_chat", *(f"tedtalks_{language}" for language in LANGUAGES)}
    composed = {f"{main}_{v}" for main in ("dialogsum", "synthetic_persona_chat") for v in LANGUAGES + TONES}
    expected = published | composed | {f"content_rephrasing_{tone}" for tone in TONES}
    assert {name for name, one in SETS.items() if one.benchmark == "paper"} == expected
    assert len(expected) == 23
    assert {one.composed_set for one in all_sub_tasks("paper")} == composed


def test_pockets_sets_are_those_that_its_grammar_makes():
    assert {one.source.title for one in SETS.values() if one.benchmark == "pocket"} == {"Pocket's grammar"}
    assert sum(one.benchmark == "pocket" for one in SETS.values()) == 23 + 3
    assert len(all_sub_tasks("pocket")) == 14


@pytest.mark.parametrize("name", [name for name, one in SETS.items() if one.benchmark != "pocket"])
def test_a_set_is_planned_by_its_name(name, tmp_path):
    plan = make_preparation_plan(*parse_preparation_arguments(["--only", name, "--workspace", str(tmp_path)]))
    assert [one.name for one in plan.sets] == [name]


# ---- text models


@pytest.mark.parametrize("name", TEXT_MODELS)
def test_a_text_model_keeps_to_the_protocol(name):
    module = TEXT_MODELS[name]
    assert module.TASKS
    assert {task.name for task in all_tasks() if task.role == "auxiliary"} >= set(module.TASKS)
    assert isinstance(module.REVISION, str)
    for task in all_tasks():
        if task.name not in module.TASKS:
            continue
        settings = TextModelSettings("owner/name" if getattr(module, "NEEDS_MODEL", False) else None)
        model = module.text_model(task, settings)
        members = [member for member, _ in inspect.getmembers(TextModel, inspect.isfunction) if not member.startswith("_")]
        assert all(callable(getattr(model, member)) for member in members)
        assert model.batch_size >= 1
        identity = json.dumps(model.identity())
        assert identity == json.dumps(module.text_model(task, settings).identity())


# ---- merge strategies


@pytest.mark.parametrize("strategy", strategies().values(), ids=strategies())
def test_a_strategy_says_its_formula_and_source_and_has_options_with_defaults(strategy: Strategy):
    assert "PEFT 0.21" in strategy.documentation or "Source: " in strategy.documentation
    words = [f"{name}={default}" for name, default in strategy.options.items()]
    assert strategy.parse_options(words) == strategy.options
    with pytest.raises(UserError, match="has no such option"):
        strategy.parse_options(["no_such_option=1"])
