"""What one call of the preparation will make, checked before anything is read: all mistakes reported together."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path

from src.data import Dataset, Locations, all_datasets
from src.errors import UserError, nearest
from src.files import hash_of_json
from src.models import POCKET, BaseModel
from src.preparation.arguments import PAPER_MODELS, PreparationArguments
from src.preparation.quality import FINDINGS
from src.tasks import Task
from src.text_models import TextModel, TextModelSettings, find_text_model, text_model_names
from src.workspace import Workspace

POCKETS_LENGTH_MODELS = (POCKET,)
_POCKETS_SETS = "pocket_*"


@dataclass(frozen=True)
class SetPlan:
    """A set to be made, and the text model that rewrites its targets (None: they are as published)."""

    dataset: Dataset
    text_model_name: str | None
    text_model: TextModel | None
    length_models: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.dataset.name


@dataclass(frozen=True)
class PreparationPlan:
    """A call that holds together. Sets of one text model follow one another."""

    arguments: PreparationArguments
    workspace: Workspace
    sets: list[SetPlan]

    @property
    def needs_hub(self) -> bool:
        """Whether something may have to come from the hub: a source, a text model, or a tokenizer for the lengths."""
        models = [model for one in self.sets for model in one.length_models if not BaseModel(model).is_local]
        return bool(models) or any(one.dataset.is_on_hub or one.text_model_name not in (None, POCKET) for one in self.sets)

    def rewritten(self, name: str) -> Path:
        """Where the rewritten targets of a set are kept."""
        return self.workspace.prepared_data(".rewritten") / f"{name}.jsonl"


def make_preparation_plan(arguments: PreparationArguments, found_while_parsing: Sequence[str] = ()) -> PreparationPlan:
    """Check a call; raises UserError with one line per mistake."""
    mistakes = [*found_while_parsing, *_wrong_values(arguments)]
    workspace = Workspace(Path(arguments.workspace))
    raw = Path(arguments.raw_data_dir) if arguments.raw_data_dir else None
    sets = []
    chosen = _chosen_sets(arguments, Locations(workspace.root / "data", raw), mistakes)
    for dataset in chosen:
        try:
            sets.append(_set_plan(dataset, arguments, workspace))
        except UserError as error:
            mistakes += error.mistakes
    if mistakes:
        raise UserError(*dict.fromkeys(mistakes))
    return PreparationPlan(arguments, workspace, sorted(_with_shared_text_models(sets), key=_text_model_of))


def _with_shared_text_models(sets: list[SetPlan]) -> list[SetPlan]:
    """The same plans; those of one text model share it, so that it is loaded once."""
    shared: dict[str, TextModel] = {}
    for one in sets:
        if one.text_model:
            shared.setdefault(_key_of(one), one.text_model)
    return [replace(one, text_model=shared[_key_of(one)]) if one.text_model else one for one in sets]


def _key_of(plan: SetPlan) -> str:
    return hash_of_json([plan.text_model_name, plan.text_model.identity()])


def _wrong_values(arguments: PreparationArguments) -> list[str]:
    mistakes = []
    for name in ("max_train_examples", "batch_size"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            mistakes.append(f"--{name} {value}: must be at least 1")
    for name in arguments.drop:
        if name not in FINDINGS:
            mistakes.append(f"--drop {name}: there is no such finding: {nearest(name, FINDINGS)}")
    for flag in ("translator", "tone_rewriter"):
        value = getattr(arguments, flag)
        if value and value not in text_model_names():
            mistakes.append(f"--{flag} {value}: there is no such text model: {nearest(value, text_model_names())}")
    if arguments.raw_data_dir and not Path(arguments.raw_data_dir).is_dir():
        mistakes.append(f"--raw_data_dir {arguments.raw_data_dir}: there is no such folder")
    workspace = Path(arguments.workspace).resolve()
    for folder in (workspace, workspace / "data"):
        existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
        if not existing.is_dir():
            mistakes.append(f"--workspace {arguments.workspace}: {existing} is not a folder")
        elif not os.access(existing, os.W_OK):
            mistakes.append(f"--workspace {arguments.workspace}: {existing} can't be written to")
    return list(dict.fromkeys(mistakes))


def _chosen_sets(arguments: PreparationArguments, locations: Locations, mistakes: list[str]) -> list[Dataset]:
    """The sets that --only names; without it the paper's, or Pocket's. Patterns are those of file names."""
    known = all_datasets(locations)
    if arguments.pocket:
        known = {name: dataset for name, dataset in known.items() if fnmatchcase(name, _POCKETS_SETS)}
    for pattern in arguments.only:
        if not any(fnmatchcase(name, pattern) for name in known):
            mistakes.append(f"--only {pattern}: there is no such set: {nearest(pattern, known)}")
    if arguments.only:
        return [dataset for name, dataset in known.items() if any(fnmatchcase(name, pattern) for pattern in arguments.only)]
    return [dataset for dataset in known.values() if arguments.pocket or dataset.source.hub_id]


def _set_plan(dataset: Dataset, arguments: PreparationArguments, workspace: Workspace) -> SetPlan:
    is_pockets = fnmatchcase(dataset.name, _POCKETS_SETS)
    length_models = tuple(arguments.length_models) or (POCKETS_LENGTH_MODELS if is_pockets else PAPER_MODELS)
    if not dataset.rewritten:
        return SetPlan(dataset, None, None, length_models)
    name, text_model = _text_model(dataset.tasks[-1], POCKET if is_pockets else None, arguments, workspace)
    if name == POCKET and not is_pockets:
        raise UserError(f"{dataset.name} can't be made by the text model pocket: it reads the English of Pocket's sets only")
    return SetPlan(dataset, name, text_model, length_models)


def _text_model(task: Task, default: str | None, arguments: PreparationArguments, workspace: Workspace) -> tuple[str, TextModel]:
    if task.name == "translation":
        name = arguments.translator or default or "marian"
        settings = TextModelSettings(arguments.translator_model, None, arguments.text_model_dtype)
        return name, find_text_model(name, task, settings, "--translator")
    name = arguments.tone_rewriter or default or "llm_toys"
    settings = TextModelSettings(
        arguments.tone_rewriter_model,
        arguments.tone_rewriter_adapter,
        arguments.text_model_dtype,
        converted=workspace.prepared_data(".converted") if arguments.convert_pickled_adapter else None,
    )
    return name, find_text_model(name, task, settings, "--tone_rewriter")


def _text_model_of(plan: SetPlan) -> tuple[str, str, str]:
    """Sets as published come first, then those of one text model after another."""
    task = plan.dataset.tasks[-1]
    return (plan.text_model_name or "", task.name, task.variant or "") if plan.text_model_name else ("", "", "")
