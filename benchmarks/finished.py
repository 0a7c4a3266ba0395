"""Finished experiments as benchmarks name them: NAME, or NAME@R for one whose merge is cut to rank R."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from compositional.core.errors import UserError
from compositional.core.workspace import Workspace
from compositional.experiment.finished import adapters_of_finished, finished_experiment

if TYPE_CHECKING:
    from compositional.adapters.peft_folder import StoredAdapter
    from compositional.experiment.plan import Plan


@dataclass(frozen=True)
class Finished:
    """A finished experiment, the name that it was asked for by, and the rank that its merge is cut to, if any."""

    name: str
    plan: Plan
    rank: int | None

    @classmethod
    def named(cls, name: str, workspace: Path) -> Finished:
        """The experiment of a workspace; raises UserError for one that is not there, and for a rank that cuts nothing."""
        experiment, _, rank = name.partition("@")
        if "@" in name and not (rank.isdigit() and int(rank)):
            raise UserError(f"--experiments {name}: a rank of at least 1 is expected after @")
        plan = finished_experiment(experiment, Workspace(workspace), "--experiments")
        if rank and not plan.answering_adapters:
            raise UserError(f"--experiments {name}: it answers without an adapter, so that there is nothing to cut")
        return cls(name, plan, int(rank) if rank else None)

    def adapters(self, folder: Path) -> tuple[list[StoredAdapter], float | None]:
        """The adapters that it answers with, one per step, and the relative error of what is cut.

        Cut adapters are written to subfolders of `folder`, in float32. Raises UserError for adapters that have changed.
        """
        from compositional.adapters.low_rank import compacted
        from compositional.adapters.peft_folder import CALIBRATION_FILE, StoredAdapter, write_adapter

        stored = adapters_of_finished(self.plan, "--experiments")
        if not self.rank:
            return stored, None
        cut, errors = [], []
        for number, one in enumerate(stored):
            adapter = compacted(one.read(), self.rank)
            place = folder / f"{self.name}_{number}"
            write_adapter(place, adapter, "float32")
            if (one.folder / CALIBRATION_FILE).is_file():
                shutil.copy(one.folder / CALIBRATION_FILE, place)
            cut.append(StoredAdapter(place))
            errors.append(adapter.report["relative_compaction_error"])
        return cut, max(errors, default=None)
