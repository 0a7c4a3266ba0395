"""Finished experiments: their plans from their results, and whether what answered is still there, unchanged."""

from __future__ import annotations

from typing import Any, get_type_hints

from compositional.adapters.peft_folder import StoredAdapter
from compositional.core.errors import Mistakes, UserError, nearest
from compositional.core.flags import is_of_type
from compositional.core.workspace import Workspace
from compositional.experiment.arguments import Arguments
from compositional.experiment.plan import Plan, make_plan
from compositional.experiment.resume import read_results


def results_by_experiment(workspace: Workspace) -> dict[str, dict[str, Any]]:
    """The results of all finished experiments, by name."""
    return {path.parent.name: read_results(path) for path in sorted(workspace.root.glob("output/*/results.json"))}


def finished_experiment(name: str, workspace: Workspace, flag: str = "--experiment_name") -> Plan:
    """The experiment's plan, from the arguments in its results; raises UserError for one that is not there, or no longer whole."""
    path = workspace.results(name)
    if not path.is_file():
        finished = [one.parent.name for one in workspace.root.glob("output/*/results.json")]
        hint = nearest(name, finished) if finished else "run_experiment.py makes it"
        raise UserError(f"{flag} {name}: there are no results of it in {path.parent.parent}: {hint}")
    recorded = read_results(path)["arguments"]
    known = get_type_hints(Arguments)
    if wrong := [f"{key} is {value!r}" for key, value in recorded.items() if key in known and not is_of_type(value, known[key])]:
        raise UserError(f"{path} is damaged: of its arguments, {', '.join(wrong)}; run the experiment again")
    if recorded.get("stored_calibration"):
        recorded = recorded | {"calibrate": None}  # it follows from the stored one
    found = {key: value for key, value in recorded.items() if key in known}
    return make_plan(Arguments(**(found | {"workspace": str(workspace.root), "raw_data_dir": None})))


def adapters_of_finished(plan: Plan, flag: str = "--experiment_name") -> list[StoredAdapter]:
    """The adapters that a finished experiment answers with, one per step.

    Raises UserError when one is missing, or when it or the base model is not that which its predictions were made with.
    """
    name, mistakes = plan.arguments.experiment_name, Mistakes()
    settings = read_results(plan.workspace.results(name))["settings"]
    recorded_base = settings.get("hash_of_base_model")
    mistakes.when(
        bool(recorded_base) and recorded_base != plan.base.identity,
        f"{flag} {name}: its base model {plan.base.name} has changed since it answered: run the experiment again",
    )
    adapters = [StoredAdapter(plan.workspace.stored_model(one)) for one in plan.answering_adapters]
    for number, adapter in enumerate(adapters):
        folder = adapter.folder
        if not folder.is_dir():
            mistakes.append(f"{flag} {name}: its adapter {folder} is missing: run it again")
            continue
        answered = settings.get("hash_of_adapter") if number == 0 else settings.get(f"hash_of_adapter_{folder.name}")
        mistakes.when(
            bool(answered) and answered != adapter.hash,
            f"{flag} {name}: its adapter {folder} has changed since it answered: run the experiment again",
        )
    if mistakes:
        raise UserError(*mistakes)
    return adapters
