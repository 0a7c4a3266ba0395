"""Write what the documentation lists of the code between the markers of its pages: `make docs`. A test compares them."""

from __future__ import annotations

import csv
import dataclasses
import textwrap
from functools import partial
from pathlib import Path

from compositional.core.flags import default_of
from compositional.core.tables import aligned
from compositional.data import Locations, all_datasets
from compositional.demo.plan import DemoArguments
from compositional.experiment.arguments import Arguments
from compositional.export.plan import ExportArguments
from compositional.judge.plan import JudgeArguments
from compositional.judge.question import judge_prompt
from compositional.merging import strategies
from compositional.preparation.plan import PreparationArguments
from compositional.preparation.quality import FINDINGS
from compositional.report.formats import MISSING
from compositional.report.plan import TableArguments
from compositional.sweep.arguments import MAIN, TABLES, SweepArguments
from compositional.tasks import find_task

README = Path(__file__).parents[1] / "README.md"
DOCS = README.parent / "docs"
RESULTS = DOCS / "results"


def flags_table(kind: type) -> str:
    """A Markdown table of a command's flags: default, certainty, meaning."""
    lines = ["| flag | default | certainty | meaning |", "|---|---|---|---|"]
    for field in dataclasses.fields(kind):
        default = default_of(field)
        shown = " ".join(map(str, default)) if isinstance(default, list) else default
        shown = "" if shown is None or shown is False or shown == "" else f"`{shown}`"
        choices = field.metadata["choices"]
        meaning = field.metadata["help"].replace("%%", "%") + (f" ({', '.join(choices)})" if choices else "")
        certainty = field.metadata["certainty"] if shown or field.metadata["certainty"] != "ours" else ""
        lines.append(f"| `--{field.name}` | {shown} | {certainty} | {meaning} |")
    return "\n".join(lines)


def judge_prompt_example() -> str:
    """The question to a judge for one compositional task, as a code block."""
    tasks = (find_task("summarization"), find_task("translation", "es"))
    return f"```\n{judge_prompt(tasks, '...', '...')}\n```"


def sources_table() -> str:
    """A Markdown table of the sources of the sets that are prepared."""
    sources = list(
        {dataset.source.title: dataset.source for dataset in all_datasets(Locations(Path("data"), None)).values()}.values()
    )
    lines = ["| source | hub id @ revision | files in `--raw_data_dir` | columns | splits | rows | licence |", "|" + "---|" * 7]
    for source in sources:
        hub = f"`{source.hub_id}` @ `{source.revision}`" if source.hub_id else "none"
        files = ", ".join(f"`{name}`" for name in dict.fromkeys(source.files.values())) or "none"
        rows = " / ".join(f"{count:,}" for count in source.rows.values())
        lines.append(f"| {source.title} | {hub} | {files} | {source.columns} | {source.split_rule} | {rows} | {source.licence} |")
    return "\n".join([*lines, "", *(f"- {source.title}, an example: {source.example}" for source in sources)])


def findings_table() -> str:
    """A Markdown table of what the quality gate notices."""
    return "\n".join(["| finding | meaning |", "|---|---|", *(f"| `{name}` | {meaning} |" for name, meaning in FINDINGS.items())])


def strategies_sections() -> str:
    """A section per merge strategy: the first lines of its file, and its options."""
    sections = []
    for name, strategy in strategies().items():
        options = ", ".join(f"`{option}={default}`" for option, default in strategy.options.items()) or "none"
        sections.append(f"### {name}\n\n{strategy.documentation}\n\nOptions: {options}.")
    return "\n\n".join(sections)


def means_table(path: Path) -> str:
    """A Markdown table of the means of a table's CSV, with half the width of their 95 % intervals."""
    means: dict[str, dict[str, str]] = {}
    with open(path, encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            figure = MISSING
            if row["mean"]:
                mean, low, high = (float(row[name]) for name in ("mean", "low", "high"))
                figure = f"{mean:.1f} ± {(high - low) / 2:.1f}"
            means.setdefault(row["method"], {})[row["column"]] = figure
    columns = list(next(iter(means.values())))
    return aligned([("method", *(f"{column} %" for column in columns)), *((label, *row.values()) for label, row in means.items())])


def _wrapped(text: str) -> str:
    """A text with its lines of prose in the width of the pages; a table's rows stay whole."""
    fill = partial(textwrap.fill, width=120, break_long_words=False, break_on_hyphens=False)
    return "\n".join(line if line.startswith("|") else fill(line) for line in text.splitlines())


def written_parts(page: Path) -> dict[str, str]:
    """What stands between a page's markers, by the marker's name."""
    if page.name == "methods.md":
        return {"strategies": strategies_sections()}
    if page.name == "judge.md":
        return {"flags": flags_table(JudgeArguments), "prompt": judge_prompt_example()}
    if page.name == "export.md":
        return {"flags": flags_table(ExportArguments)}
    if page.name == "demo.md":
        return {"flags": flags_table(DemoArguments)}
    if page.name == "data.md":
        return {"sources": sources_table(), "findings": findings_table(), "flags": flags_table(PreparationArguments)}
    if page.parent == RESULTS:
        is_main = page.name == "pocket_main_table.md"
        files = {"means": "main.csv", "four_sub_tasks": "four_sub_tasks.csv"} if is_main else {}
        means = {part: means_table(RESULTS / "pocket" / file) for part, file in files.items()}
        tables = [MAIN] if is_main else [name for name in TABLES if name != MAIN]
        return means | {name: _wrapped((RESULTS / "pocket" / f"{name}.md").read_text(encoding="utf-8").strip()) for name in tables}
    if page.name == "sweeps.md":
        return {"flags": flags_table(SweepArguments), "table_flags": flags_table(TableArguments)}
    return {"flags": flags_table(Arguments)}


def page_with_parts(page: Path) -> str:
    """A page's text with the present parts between its markers."""
    text = page.read_text(encoding="utf-8")
    for name, part in written_parts(page).items():
        start, end = f"<!-- {name}: written by `make docs` -->", f"<!-- end of {name} -->"
        before, rest = text.split(start)
        text = f"{before}{start}\n{part}\n{end}{rest.split(end)[1]}"
    return text


PAGES = (
    *(DOCS / f"{name}.md" for name in ("fidelity", "judge", "data", "methods", "sweeps", "export", "demo")),
    *(RESULTS / f"pocket_{name}.md" for name in ("main_table", "ablations")),
)

if __name__ == "__main__":
    for page in PAGES:
        page.write_text(page_with_parts(page), encoding="utf-8")
