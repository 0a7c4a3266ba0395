"""Which experiments a table consists of, from the flags that `run_sweep.py` and `make_tables.py` share."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from compositional.core.errors import Mistakes, nearest
from compositional.core.flags import fault_of_name
from compositional.judge.plan import parse_judge_arguments
from compositional.merging import strategies
from compositional.paper import LABELS, LANGUAGES, PAPER_MODELS, TONES
from compositional.sweep.ablations import Ablation, ablations
from compositional.sweep.arguments import MAIN, Selection
from compositional.sweep.benchmarks import PAPER, POCKET, Profile, SubTask, all_sub_tasks
from compositional.sweep.project import CHECKOUT, is_another_elsewhere
from compositional.sweep.rows import OWN_ROWS, PAPER_ROWS, SHARED, Naming, TableRow, shared_name, shared_names, strategy_row


@dataclass(frozen=True)
class Choice:
    """What a table consists of: the main one, or an `ablation`.

    `models` are base models by the ends of their experiments' names; None: the profile's own.
    """

    profile: Profile
    models: dict[str, str | None]
    sub_tasks: list[SubTask]
    rows: list[TableRow]
    shared: list[str] = field(default_factory=list)
    seeds: list[int] = field(default_factory=lambda: [0])
    judged: bool = True
    ablation: Ablation | None = None
    workspace: str = "."

    @property
    def judge_name(self) -> str:
        """The judge's name in the files of its verdicts."""
        return parse_judge_arguments(self.profile.flags("judge"))[0].judge_name

    @property
    def reference(self) -> str:
        """The row that others are compared with."""
        return self.ablation.reference if self.ablation else "Learnable Calibration++"

    def naming(self, model: str, seed: int = 0) -> Naming:
        """How experiments and single-task adapters with a model and a seed are called; seed 0 is not named."""
        suffix = (f"_{model}" if model else "") + (f"_seed{seed}" if seed else "")
        return Naming("pocket_" if self.profile.benchmark == "pocket" else "", suffix)


@dataclass(frozen=True)
class Cell:
    """One experiment of a table, the label of the row that it belongs to, and whether it rests on a training."""

    label: str
    sub_task: SubTask
    model: str
    seed: int
    experiment: str
    rests_on_training: bool = True

    @property
    def stratum(self) -> str:
        """Sub-task and model, such as `sum_tr_es slm`: what an estimate is averaged over."""
        return f"{self.sub_task.name} {self.model}".strip()

    @property
    def training(self) -> str:
        """What its seed is of: with each seed, all sub-tasks with a model share the main task's adapter."""
        return self.model


def seeds_of(row: TableRow, choice: Choice) -> list[int]:
    """What rests on a training is repeated with every seed; the base model alone answers the same with each."""
    return choice.seeds if row.rests_on_training else [min(choice.seeds)]


def cells(choice: Choice) -> list[Cell]:
    """Every experiment that predicts, row by row: the paper's rows in its order, then the others."""
    rows = [(row.label, row.name, seeds_of(row, choice), row.rests_on_training) for row in choice.rows]
    shared = {label: calibration for label, calibration in SHARED.items() if calibration in choice.shared}
    rows += [(label, shared_name(calibration, choice.sub_tasks), choice.seeds, True) for label, calibration in shared.items()]
    rows.sort(key=lambda row: LABELS.index(row[0]) if row[0] in LABELS else len(LABELS))
    return [
        Cell(label, one, model, seed, choice.naming(model, seed).experiment(one, name), trained)
        for label, name, seeds, trained in rows
        for one in choice.sub_tasks
        for model in choice.models
        for seed in seeds
    ]


def choose(selection: Selection, mistakes: Mistakes) -> Choice:
    """The experiments that are selected; what is wrong with the selection is added to the mistakes."""
    profile, models = _models(selection, mistakes)
    sub_tasks = _sub_tasks(selection, profile, mistakes)
    ablation = ablations(profile).get(selection.table)
    rows = {row.name: row for row in (ablation.rows if ablation else (*PAPER_ROWS, *OWN_ROWS))}
    rows |= _strategy_rows(selection, mistakes)
    asked = _names_of_rows(selection, sub_tasks, list(rows), mistakes)
    mistakes += wrong_seeds(selection.seeds)
    choice = Choice(
        profile,
        models,
        sub_tasks,
        [row for name, row in rows.items() if name in asked],
        [calibration for name, calibration in shared_names().items() if name in asked],
        selection.seeds,
        ablation=ablation,
        workspace=selection.workspace if Path.cwd() == CHECKOUT else str(Path(selection.workspace).resolve()),
    )
    if not mistakes:
        mistakes += _wrong_names(choice)
    return choice


def _wrong_names(choice: Choice) -> list[str]:
    """A message for the first experiment or adapter that can't be called as the models and methods would have it."""
    namings = [choice.naming(model, seed) for model in choice.models for seed in choice.seeds]
    adapters = [
        naming.adapter(name) for naming in namings for one in choice.sub_tasks for name in (one.main_set, one.auxiliary_set)
    ]
    names = [*adapters, *(cell.experiment for cell in cells(choice))]
    faults = ((name, fault) for name in names if (fault := fault_of_name(name)))
    return [f"--models, --methods: an experiment would be named {name!r}: {fault}" for name, fault in faults][:1]


def wrong_seeds(seeds: list[int]) -> list[str]:
    """What is wrong with the seeds of a table."""
    found = {
        "--seeds: must be at least 0 and below 2^32 - 42": any(not 0 <= seed < 2**32 - 42 for seed in seeds),
        "--seeds: a seed stands there twice": len(set(seeds)) < len(seeds),
    }
    return [message for message, wrong in found.items() if wrong]


def _strategy_rows(selection: Selection, mistakes: Mistakes) -> dict[str, TableRow]:
    """The rows of merge strategies that are asked for by their names or files, by these words."""
    asked = [word for word in selection.methods if word.endswith(".py") or word in strategies()]
    rows = {word: mistakes.attempt(strategy_row, word) for word in asked if selection.table == MAIN}
    found = {word: row for word, row in rows.items() if row}
    labels = [row.label for row in found.values()]
    mistakes += [f"--methods: two strategies are called {label}" for label in dict.fromkeys(labels) if labels.count(label) > 1]
    return found


def _names_of_rows(selection: Selection, sub_tasks: list[SubTask], known_rows: list[str], mistakes: Mistakes) -> list[str]:
    """The names of the rows that are asked for, of an ablation's or the main table's."""
    if selection.table != MAIN:
        mistakes += [f"--methods {name}: {nearest(name, known_rows)}" for name in selection.methods if name not in known_rows]
        return selection.methods or known_rows
    shared = list(shared_names())
    groups = {"paper": [*(row.name for row in PAPER_ROWS), *shared], "own": [row.name for row in OWN_ROWS]}
    if len(sub_tasks) < 2:
        groups["paper"] = [name for name in groups["paper"] if name not in shared]
        alone = [name for name in selection.methods if name in shared]
        mistakes += [f"--methods {name}: there is one sub-task, and nothing to share a calibration with" for name in alone]
    asked = [name for word in selection.methods or ["paper"] for name in groups.get(word, [word])]
    known = [*groups, *known_rows, *shared]
    unknown = [name for name in asked if name not in known and not name.endswith(".py")]
    mistakes += [f"--methods {name}: {nearest(name, known)}" for name in unknown]
    return asked


def _models(arguments: Selection, mistakes: Mistakes) -> tuple[Profile, dict[str, str | None]]:
    """The benchmark, and the base models by the ends of their experiments' names."""
    if arguments.models == ["pocket"]:
        return POCKET, {"": None}
    mistakes.when("pocket" in arguments.models, "--models: pocket has data of its own, and stands alone")
    hub_ids = {model.suffix: model.hub_id for model in PAPER_MODELS}
    found = {name if name in hub_ids else Path(name).name: hub_ids.get(name, name) for name in arguments.models}
    found = {name: str(Path(model).resolve()) if Path(model).is_dir() else model for name, model in found.items()}
    elsewhere = [model for model in found.values() if is_another_elsewhere(model, "folder")]
    mistakes += [f"--models {model}: there is no such folder here, but in {CHECKOUT}: name its whole path" for model in elsewhere]
    mistakes.when(len(found) < len(arguments.models), "--models: two of them end with the same name")
    return PAPER, found


def _sub_tasks(arguments: Selection, profile: Profile, mistakes: Mistakes) -> list[SubTask]:
    for flag, known in (("languages", LANGUAGES), ("tones", TONES)):
        mistakes += [f"--{flag} {name}: {nearest(name, known)}" for name in getattr(arguments, flag) if name not in known]
    known = {one.name: one for one in all_sub_tasks(profile.benchmark)}
    if arguments.sub_tasks:
        mistakes += [f"--sub_tasks {name}: {nearest(name, known)}" for name in arguments.sub_tasks if name not in known]
        mistakes.when(len(set(arguments.sub_tasks)) < len(arguments.sub_tasks), "--sub_tasks: a sub-task stands there twice")
        return [known[name] for name in arguments.sub_tasks if name in known]
    variants = {*arguments.languages, *arguments.tones}
    chosen = [one for one in known.values() if one.task in arguments.tasks and one.auxiliary.variant in variants]
    mistakes.when(not (chosen or mistakes), "--tasks, --languages and --tones leave no sub-task")
    return chosen
