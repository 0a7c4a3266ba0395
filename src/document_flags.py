"""Write the table of flags into docs/fidelity.md: `make docs`. A test compares it with the flags as they are."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from src.arguments import Arguments
from src.flags import default_of

PAGE = Path(__file__).parents[1] / "docs" / "fidelity.md"
START, END = "<!-- flags: written by `make docs` -->", "<!-- end of flags -->"


def flags_table() -> str:
    """A Markdown table of all flags: default, certainty, meaning."""
    lines = ["| flag | default | certainty | meaning |", "|---|---|---|---|"]
    for field in dataclasses.fields(Arguments):
        default = default_of(field)
        shown = " ".join(map(str, default)) if isinstance(default, list) else default
        shown = "" if shown in (None, "", False) else f"`{shown}`"
        choices = field.metadata["choices"]
        meaning = field.metadata["help"].replace("%%", "%") + (f" ({', '.join(choices)})" if choices else "")
        certainty = field.metadata["certainty"] if shown or field.metadata["certainty"] != "ours" else ""
        lines.append(f"| `--{field.name}` | {shown} | {certainty} | {meaning} |")
    return "\n".join(lines)


def page_with_table(page: str) -> str:
    """The page with the present table between its markers."""
    before, rest = page.split(START)
    return f"{before}{START}\n{flags_table()}\n{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    PAGE.write_text(page_with_table(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
