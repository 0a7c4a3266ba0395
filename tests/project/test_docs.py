"""What the documentation says is what the code does."""

from __future__ import annotations

import importlib
import re
import shlex
from dataclasses import replace

import pytest

from compositional.core.errors import Mistakes
from compositional.demo.plan import parse_demo_arguments
from compositional.experiment.arguments import parse_arguments
from compositional.export.plan import parse_export_arguments
from compositional.judge.plan import parse_judge_arguments
from compositional.preparation.plan import make_preparation_plan, parse_preparation_arguments
from compositional.report.plan import parse_table_arguments
from compositional.sweep.arguments import parse_sweep_arguments
from compositional.sweep.selection import choose
from helpers.checkout import PROJECT
from helpers.paper_commands import COMMANDS
from helpers.recipes import files_of_recipes
from scripts.document import DOCS, PAGES, README, RESULTS, page_with_parts

PAGE = DOCS / "fidelity.md"
GUIDES = (PROJECT / "ARCHITECTURE.md", PROJECT / "CONTRIBUTING.md")
# Where the guides name files from.
PLACES = (PROJECT, PROJECT / "src" / "compositional")
# docs/results/pocket has tables alone, as make_tables.py writes them.
WRITTEN_BY_HAND = sorted([*PROJECT.glob("*.md"), *DOCS.glob("*.md"), *RESULTS.glob("*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_the_pages_list_of_the_code_is_up_to_date(page):
    assert page_with_parts(page) == page.read_text(encoding="utf-8"), "run `make docs`"


def test_every_command_in_the_pages_has_known_flags_only():
    pages = (README, DOCS / "adding_a_method.md")
    text = "".join(page.read_text(encoding="utf-8").replace("\\\n", " ") for page in pages)
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


@pytest.mark.parametrize("page", [README, DOCS / "sweeps.md", *sorted(RESULTS.glob("pocket*.md"))], ids=lambda page: page.name)
def test_every_command_of_sweeps_and_tables_holds_together(page):
    commands = re.findall(r"python (run_sweep|make_tables)\.py( --[^`\n]+)", page.read_text(encoding="utf-8"))
    assert "run_sweep" in {name for name, _ in commands}
    for name, flags in commands:
        parse = {"run_sweep": parse_sweep_arguments, "make_tables": parse_table_arguments}[name]
        arguments, found = parse(shlex.split(flags))
        mistakes = Mistakes(found)
        assert choose(arguments, mistakes).sub_tasks
        assert not mistakes, flags


def test_every_export_command_has_known_flags_only():
    commands = re.findall(r"python export\.py( --[^`\n]+)", (DOCS / "export.md").read_text(encoding="utf-8"))
    assert commands
    for flags in commands:
        arguments, mistakes = parse_export_arguments(shlex.split(flags))
        assert not mistakes, flags
        assert arguments.experiment_name


def test_every_demo_command_has_known_flags_only():
    commands = re.findall(r"^python demo\.py(.*)$", (DOCS / "demo.md").read_text(encoding="utf-8"), flags=re.M)
    assert commands
    for flags in commands:
        _, mistakes = parse_demo_arguments(shlex.split(flags))
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


# ---- what pages look like, and what they name


def test_the_readme_is_short_and_has_the_papers_commands_letter_by_letter():
    lines = README.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 150
    assert [line for line in lines if line in COMMANDS] == list(COMMANDS)


def rows_of(text: str) -> dict[str, list[str]]:
    """The cells of the tables' rows, without bold and marks, by the first cell; headers and rules are rows, too."""
    lines = [re.sub(r"[*▲▼]", "", line).strip("| ").split("|") for line in text.splitlines() if line.startswith("|")]
    return {first.strip(): [cell.strip() for cell in others] for first, *others in lines}


def test_the_figures_for_choosing_a_method_are_those_of_the_results():
    section = README.read_text(encoding="utf-8").split("## Which method should I use?")[1].split("\n## ")[0]
    pocket, smollm2 = ((RESULTS / f"{name}.md").read_text(encoding="utf-8") for name in ("pocket_main_table", "smollm2"))
    means = rows_of(pocket.split("<!-- means")[1].split("<!-- end of means")[0])
    parameters = rows_of(pocket.split("<!-- main")[1].split("<!-- end of main")[0])
    _, _, *chosen = rows_of(section).items()
    assert len(chosen) == 5
    for name, (_, passes, extra, of_pocket, of_smollm2) in chosen:
        quality, extra_of_smollm2 = rows_of(smollm2)[name]
        assert of_pocket == ", ".join(means[name][::3])
        assert of_smollm2 == quality.rsplit(" (", 1)[0]
        assert extra.split("; ") == list(dict.fromkeys([parameters[name][-1], extra_of_smollm2]))
        assert passes == ("2×" if name.startswith("Multi-step") else "1×")
    quickstart = rows_of(README.read_text(encoding="utf-8").split("<!-- quickstart")[1].split("<!-- end of quickstart")[0])
    names = ("Joint-expert LoRA", "Learnable Calibration", "Learnable Calibration++")
    seconds = "{} s for the joint expert, {} s for LC, {} s for LC++".format(*(quickstart[name][-1] for name in names))
    assert seconds in " ".join(section.split())


@pytest.mark.parametrize("page", WRITTEN_BY_HAND, ids=lambda page: page.name)
def test_lines_of_prose_are_at_most_120_characters(page):
    text = re.sub(r"<!-- (\w+): written by `make docs` -->.*?<!-- end of \1 -->", "", page.read_text("utf-8"), flags=re.DOTALL)
    text = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    assert [line for line in text.splitlines() if len(line) > 120 and not line.startswith("|")] == []


@pytest.mark.parametrize("page", WRITTEN_BY_HAND, ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page):
    links = re.findall(r"\]\((?!https?:)([^)#]+)[^)]*\)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", GUIDES, ids=lambda page: page.name)
def test_paths_modules_and_targets_that_the_guides_name_exist(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    named = set(re.findall(r"`([^`\n]+)`", text)) - files_of_recipes().keys()
    paths = {one for one in named if re.fullmatch(r"[\w.-]+(/[\w.-]+)*/?", one) and re.search(r"/|\.(py|md|toml|sh|yml)$", one)}
    assert len(paths) >= 20
    assert sorted(one for one in paths if not any((place / one).exists() for place in PLACES)) == []
    modules = {one for one in named if re.fullmatch(r"compositional(\.\w+)+", one)}
    assert sorted(one for one in modules if not _is_importable(one)) == []
    targets = {one.split()[1] for one in named if re.fullmatch(r"make [\w-]+", one)}
    assert sorted(targets - set(re.findall(r"^([\w-]+):", (PROJECT / "Makefile").read_text(), flags=re.MULTILINE))) == []


def _is_importable(name: str) -> bool:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:
        return False
    return True
