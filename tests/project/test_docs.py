"""What the documentation says is what the code does."""

from __future__ import annotations

import re
import shlex
from dataclasses import replace

import pytest

from compositional.core.errors import Mistakes
from compositional.experiment.arguments import parse_arguments
from compositional.judge.plan import parse_judge_arguments
from compositional.preparation.plan import make_preparation_plan, parse_preparation_arguments
from compositional.report.plan import parse_table_arguments
from compositional.sweep.arguments import parse_sweep_arguments
from compositional.sweep.selection import choose
from scripts.document import DOCS, PAGES, README, RESULTS, page_with_parts

PAGE = DOCS / "fidelity.md"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_the_pages_list_of_the_code_is_up_to_date(page):
    assert page_with_parts(page) == page.read_text(encoding="utf-8"), "run `make docs`"


def test_every_command_in_the_pages_has_known_flags_only():
    text = "".join(page.read_text(encoding="utf-8").replace("\\\n", " ") for page in (README, DOCS / "adding_a_method.md"))
    commands = re.findall(r"^(?:CUDA_VISIBLE_DEVICES=\d )?python run_experiment\.py (.+)$", text, flags=re.M)
    assert len(commands) >= 6
    for command in commands:
        arguments, mistakes = parse_arguments([word for word in shlex.split(command) if not word.startswith("@")])
        assert not mistakes, command
        assert arguments.experiment_name


@pytest.mark.parametrize("page", [README, DOCS / "data.md"], ids=lambda page: page.name)
def test_every_command_of_the_preparation_can_be_planned(page):
    text = page.read_text(encoding="utf-8")
    commands = re.findall(r"(?:^|`)bash prepare_compositional_task_data\.sh(.*?)(?:`|$)", text, flags=re.M)
    assert commands
    for command in commands:
        arguments, mistakes = parse_preparation_arguments(shlex.split(command))
        assert not mistakes, command
        assert make_preparation_plan(replace(arguments, raw_data_dir=None)).sets, command


@pytest.mark.parametrize("page", [README, DOCS / "judge.md"], ids=lambda page: page.name)
def test_every_command_of_the_judge_has_known_flags_only(page):
    commands = re.findall(
        r"^(?:CUDA_VISIBLE_DEVICES=\d )?python llm_judge_eval\.py (.+)$", page.read_text(encoding="utf-8"), flags=re.M
    )
    assert commands
    for command in commands:
        arguments, mistakes = parse_judge_arguments(shlex.split(command))
        assert not mistakes, command
        assert arguments.experiment_name


@pytest.mark.parametrize("page", [README, DOCS / "sweeps.md", *sorted(RESULTS.glob("*.md"))], ids=lambda page: page.name)
def test_every_command_of_sweeps_and_tables_holds_together(page):
    commands = re.findall(r"python (run_sweep|make_tables)\.py( --[^`\n]+)", page.read_text(encoding="utf-8"))
    assert "run_sweep" in {name for name, _ in commands}
    for name, flags in commands:
        parse = {"run_sweep": parse_sweep_arguments, "make_tables": parse_table_arguments}[name]
        arguments, found = parse(shlex.split(flags))
        mistakes = Mistakes(found)
        assert choose(arguments, mistakes).sub_tasks
        assert not mistakes, flags


def test_instructions_in_the_docs_are_those_of_the_tasks():
    from compositional.models.chat import instruction
    from compositional.tasks import find_task

    page = PAGE.read_text(encoding="utf-8")
    spanish, witty = find_task("translation", "es"), find_task("tone_adjustment", "witty")
    for tasks in [
        (find_task("summarization"),),
        (find_task("reply"),),
        (spanish,),
        (witty,),
        (find_task("summarization"), spanish),
    ]:
        assert instruction(tasks) in page


def test_calibration_learning_rates_in_the_docs_are_the_defaults():
    from compositional.calibration import DEFAULT_LEARNING_RATES, LC, LC_PLUS_PLUS

    assert DEFAULT_LEARNING_RATES == {LC: 1e-2, LC_PLUS_PLUS: 1e-3}
    assert "learning rates 1e-2 (LC) and 1e-3 (LC++)" in PAGE.read_text(encoding="utf-8")
