"""Cells of a table, and outcomes with given scores."""

from __future__ import annotations

import numpy as np

from compositional.core.errors import Mistakes
from compositional.report.collect import Outcome
from compositional.sweep.arguments import Selection
from compositional.sweep.selection import Cell, cells, choose


def asked(flags: dict) -> list[Cell]:
    return cells(choose(Selection(**flags), Mistakes()))


def outcomes_at(cells: list[Cell], quality: dict[str, float], judged: bool = True, graded: bool = False) -> list[Outcome]:
    """Outcomes of 50 examples whose mean is as given by the row's label, in each of their figures."""
    made = []
    for cell in cells:
        if cell.label not in quality:
            continue
        spread = np.linspace(-0.01, 0.01, 50) * (1 + cell.seed)
        values = quality[cell.label] + spread
        results = {"cost": {"extra_parameters": 7}, "stages": {"test": {"headline_metric": "rougeL"}}}
        ids = [str(number) for number in range(50)]
        made.append(Outcome(cell, ids, ids, values, values if judged else None, results, values if graded else None))
    return made
