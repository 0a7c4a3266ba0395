"""The files that CONTRIBUTING.md's recipes add to the project."""

from __future__ import annotations

import re

from helpers.checkout import PROJECT


def files_of_recipes() -> dict[str, str]:
    """Their contents, by their paths in the project."""
    page = (PROJECT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    return dict(re.findall(r"^`(src/\S+\.py)`:\n\n```python\n(.*?)^```", page, flags=re.DOTALL | re.MULTILINE))
