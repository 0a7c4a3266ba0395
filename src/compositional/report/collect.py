"""What the experiments of a table have left: scores and verdicts by example, cost, seconds, and settings that differ."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from compositional.core.errors import UserError
from compositional.core.files import read_json_lines
from compositional.core.recorded import is_unchanged, read_whole_record, versions_behind
from compositional.core.workspace import Workspace
from compositional.experiment.arguments import budget_flags
from compositional.experiment.results import Cost
from compositional.judge.judging import check_verdicts_unchanged, settings_of_verdicts
from compositional.report.plan import TablePlan
from compositional.scoring.score import default_rouge
from compositional.sweep.ablations import Ablation
from compositional.sweep.selection import Cell

logger = logging.getLogger(__name__)

# What decides verdicts, by its key in their record. The model's name is not here: a folder may be spelled in several ways.
_OF_JUDGES = {
    "judge": "back end",
    "revision": "revision",
    "dtype": "precision",
    "max_model_len": "longest question",
    "prompt_hash": "question on {}",
}


@dataclass(frozen=True)
class Outcome:
    """An experiment's results: (examples) scores of the headline metric, 1 or 0 for the judge's yes or no, and the judge's grades.

    NaN: no verdict, or no grade. None: no verdicts, or no grades, of all examples. `inputs` name the examples' inputs.
    `default_rouge` is the mean of the headline metric by rouge_score's default tokenizer; None where that is the headline's own.
    `judge` has the recorded settings of the verdicts.
    """

    cell: Cell
    ids: list[str]
    inputs: list[str]
    quality: np.ndarray
    judged: np.ndarray | None
    results: dict[str, Any]
    graded: np.ndarray | None = None
    default_rouge: float | None = None
    judge: dict[str, Any] = field(default_factory=dict)

    @property
    def settings(self) -> dict[str, Any]:
        """The experiment's recorded settings, hashes included; empty in results without them."""
        return self.results.get("settings", {})


def collect_outcomes(plan: TablePlan) -> list[Outcome]:
    """The results that a table is made of; raises UserError when there are none, or none that the judge of `--judge` has judged."""
    stage, judge = plan.arguments.stage, plan.judge
    outcomes = collect(plan.cells, plan.workspace, stage, judge)
    if not outcomes:
        raise UserError(f"{plan.workspace.root / 'output'} has no {stage} results of these experiments: run_sweep.py makes them")
    if not any(outcome.judged is not None for outcome in outcomes):
        if plan.arguments.judge:
            raise UserError(f"--judge {judge}: it has judged none of these experiments; llm_judge_eval.py does")
        logger.info("no verdicts of %s: --judge names another one", judge)
    return outcomes


def collect(cells: list[Cell], workspace: Workspace, stage: str, judge: str) -> list[Outcome]:
    """The outcomes of those cells that there are; raises UserError for files that don't belong together."""
    found = [outcome for cell in cells if (outcome := _read_outcome(cell, workspace, stage, judge))]
    first: dict[str, Outcome] = {}
    for outcome in found:
        other = first.setdefault(outcome.cell.stratum, outcome)
        if (outcome.ids, outcome.inputs) != (other.ids, other.inputs):
            names = f"{outcome.cell.experiment} and {other.cell.experiment}"
            raise UserError(f"{names} predicted different examples: make both again with one setting")
    _check_one_version_of_data(found, stage)
    return found


def _check_one_version_of_data(outcomes: list[Outcome], stage: str) -> None:
    """Raise UserError when experiments of a stratum record different data, such as other references for the same inputs."""
    key = f"hash_of_{stage}_data"
    first: dict[str, Outcome] = {}
    for one in outcomes:
        if key not in one.settings:  # recorded by an older version
            continue
        other = first.setdefault(one.cell.stratum, one)
        if one.settings[key] != other.settings[key]:
            names = f"{other.cell.experiment} and {one.cell.experiment}"
            fault = f"{names} were scored against different versions of the {stage} data (another {key})"
            raise UserError(f"{fault}: run both again with --overwrite")


def _read_outcome(cell: Cell, workspace: Workspace, stage: str, judge: str) -> Outcome | None:
    results_path = workspace.results(cell.experiment)
    forms = {"stages": dict, "arguments?": dict, "settings?": dict}
    results = read_whole_record(results_path, **forms) if results_path.is_file() else {"stages": {}}
    if stage not in results["stages"]:
        return None
    _check_complete(results, stage, results_path)
    scores, path = results["stages"][stage], workspace.scores(cell.experiment, stage)
    rows = [row for _, row in read_json_lines(path)] if path.is_file() else []
    if not rows or "input" not in rows[0] or not is_unchanged(path, scores.get("hash_of_scores")):
        _score_again(cell, workspace, stage, scores)
        rows = [row for _, row in read_json_lines(path)]
    for number, row in enumerate(rows, start=1):
        if not {"id", "input", scores["headline_metric"]} <= row.keys():
            raise UserError(f"{path}, line {number}: not the scores of an example; remove the file, and it is made again")
    quality = np.array([row[scores["headline_metric"]] for row in rows])
    ids = [row["id"] for row in rows]
    judged, graded, of_judge = _verdicts(cell, workspace, stage, judge, ids)
    inputs = [row["input"] for row in rows]
    return Outcome(cell, ids, inputs, quality, judged, results, graded, default_rouge(scores), of_judge)


def _check_complete(results: dict[str, Any], stage: str, path: Path) -> None:
    """Raise UserError when results lack what a table shows of them."""
    scores, cost = results["stages"][stage], results.get("cost")
    expected = {"headline_metric", "rouge_tokenizer"}, {field.name for field in fields(Cost)}
    for name, part, keys in zip((f"stages.{stage}", "cost"), (scores, cost), expected, strict=True):
        if not isinstance(part, dict) or not keys <= part.keys():
            lacking = ", ".join(sorted(keys - (part or {}).keys())) if isinstance(part, dict | None) else "an object"
            raise UserError(f"{path} is damaged: {name} lacks {lacking}; remove the file, and run the experiment again")


def _score_again(cell: Cell, workspace: Workspace, stage: str, scores: dict[str, Any]) -> None:
    """Results of an earlier version have no scores by example, or no names of inputs: they follow from the predictions."""
    from compositional.prediction.predict import read_predictions
    from compositional.scoring.score import score

    made = workspace.predictions(cell.experiment, stage)
    if not made.is_file():
        raise UserError(f"{made} is missing: run the experiment again with --overwrite")
    logger.info("scoring the examples of %s", cell.experiment)
    predictions = read_predictions(made)
    path = workspace.scores(cell.experiment, stage)
    score(predictions, scores["headline_metric"], scores["rouge_tokenizer"], resamples=1, seed=0, path=path)


def _verdicts(
    cell: Cell, workspace: Workspace, stage: str, judge: str, ids: list[str]
) -> tuple[np.ndarray | None, np.ndarray | None, dict[str, Any]]:
    """The judge's verdicts, as 1 or 0, its grades (examples each), and the verdicts' settings.

    Older verdicts, and those of judge models, have no grades. Raises UserError for verdicts on other predictions than there are.
    """
    path = workspace.verdicts(cell.experiment, stage, judge)
    if not path.is_file():
        return None, None, {}
    check_verdicts_unchanged(workspace, cell.experiment, stage, judge)
    rows = {row.get("id"): row for _, row in read_json_lines(path)}
    if set(rows) != set(ids):
        raise UserError(f"{path} judges other examples than were predicted: judge {cell.experiment} again")
    judged = np.array([{"yes": 1.0, "no": 0.0}.get(rows[id].get("verdict"), np.nan) for id in ids])
    graded = np.array([rows[id].get("grade") for id in ids], dtype=np.float64)  # None becomes NaN
    return _any_of(judged), _any_of(graded), settings_of_verdicts(workspace, cell.experiment, stage, judge)


def _any_of(values: np.ndarray) -> np.ndarray | None:
    return values if np.isfinite(values).any() else None


def differing_settings(outcomes: list[Outcome], ablation: Ablation | None) -> list[str]:
    """A line per setting that differs in a row, or in an ablation's series, though the table does not vary it."""
    series = {row.label: row.series for row in ablation.rows} if ablation else {}
    varied = ablation.varies if ablation else ()
    found: dict[tuple[str, str], dict[str, None]] = {}
    for one in outcomes:
        arguments = one.results.get("arguments", {})
        if arguments.get("stored_calibration"):
            continue  # what it took over was learned with another experiment's settings
        for name in budget_flags():
            if name in arguments and f"--{name}" not in varied:
                group = series.get(one.cell.label) or one.cell.label
                found.setdefault((group, name), {})[json.dumps(arguments[name])] = None
    return [f"{group}: --{name} {', '.join(values)}" for (group, name), values in found.items() if len(values) > 1]


def mixed_versions(outcomes: list[Outcome]) -> list[str]:
    """A line per row whose experiments were made by several versions of the arithmetic."""
    found: dict[str, set[int]] = {}
    for one in outcomes:
        found.setdefault(one.cell.label, set()).update(versions_behind(one.results))
    return [f"{label}: versions {', '.join(map(str, sorted(v)))} of the arithmetic" for label, v in found.items() if len(v) > 1]


def differing_sources(outcomes: list[Outcome]) -> list[str]:
    """A line per base model, single-task adapter and setting of the judge that differs: the rows with another one than most."""
    found: dict[str, dict[str, list[str]]] = {}
    for one in outcomes:
        for source, version in _sources(one).items():
            found.setdefault(source, {}).setdefault(json.dumps(version), []).append(one.cell.label)
    lines = []
    for source, rows in found.items():
        usual = max(rows, key=lambda version: len(rows[version]))
        unusual = dict.fromkeys(label for version, labels in rows.items() if version != usual for label in labels)
        lines += [f"{', '.join(unusual)}: {source} is another one than in other experiments"] if unusual else []
    return lines


def _sources(outcome: Outcome) -> dict[str, Any]:
    """What an experiment and its verdicts stand on, by names that mean one thing in a table, as far as it is recorded."""
    base, prefix = outcome.settings.get("hash_of_base_model"), "hash_of_adapter_"
    found = {f"the base model {outcome.cell.model}".strip(): base} if base else {}
    judge, sub_task = outcome.judge, outcome.cell.sub_task.name
    found |= {f"the judge's {name.format(sub_task)}": judge[key] for key, name in _OF_JUDGES.items() if key in judge}
    return found | {f"adapter {key.removeprefix(prefix)}": hash for key, hash in outcome.settings.items() if key.startswith(prefix)}


def describe(plan: TablePlan, outcomes: list[Outcome]) -> str:
    """The split, sub-tasks, models, seeds and judge of a table, in a sentence, and what its experiments don't have in common."""
    choice = plan.choice
    counts = sorted({len(one.ids) for one in outcomes})
    examples = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    inputs = min(len(set(one.inputs)) for one in outcomes)
    of_inputs = f" of {inputs} inputs" if inputs < counts[0] else ""
    sub_tasks = ", ".join(one.name for one in choice.sub_tasks)
    parts = [
        f"{plan.arguments.stage.capitalize()} split, {examples} examples{of_inputs} of each of {sub_tasks}",
        f"models: {', '.join(choice.models)}" if any(choice.models) else "base model: Pocket's",
        f"seeds of everything that is trained: {', '.join(map(str, choice.seeds))}",
    ]
    if any(one.judged is not None for one in outcomes):
        parts.append(f"judge: {plan.judge}")
    differing = differing_settings(outcomes, choice.ablation) + mixed_versions(outcomes) + differing_sources(outcomes)
    return "; ".join(parts) + "." + (f" NOT MADE ALIKE: {'; '.join(differing)}." if differing else "")
