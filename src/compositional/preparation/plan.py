"""The flags of `prepare_compositional_task_data.sh`, and what a call of it will make, checked before anything is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path

from compositional.core.errors import UserError, nearest
from compositional.core.files import hash_of_json
from compositional.core.flags import COUNT, build_parser, flag, parse, wrong_values
from compositional.core.workspace import Workspace, why_unwritable
from compositional.data import Dataset, Locations, all_datasets
from compositional.models.model import POCKET, Model
from compositional.paper import PAPER_MODELS
from compositional.preparation.quality import FINDINGS
from compositional.preparation.text_models import TextModel, TextModelSettings, find_text_model, text_model_names
from compositional.tasks import Task


@dataclass
class PreparationArguments:
    """Which sets are made, of what, and how."""

    only: list[str] = flag(
        (), "what", "make these sets, or those of a pattern such as 'tedtalks_*'; default: the paper's", repeatable=True
    )
    pocket: bool = flag(False, "what", "make Pocket's sets: no network is needed")
    dry_run: bool = flag(False, "what", "show what would be made, from what, and how large; write nothing")
    overwrite: bool = flag(False, "what", "make everything again, rewritten texts included")

    raw_data_dir: str | None = flag(None, "sources", "folder with the publishers' own files; default: the hub", path="folder")
    max_train_examples: int | None = flag(
        None, "sources", "keep a seeded sample of this many training examples of each source", range=COUNT
    )
    data_seed: int = flag(42, "sources", "seed of that sample", "sibling")

    translator: str | None = flag(
        None, "text models", "text model that translates; default: marian, and pocket for Pocket's sets", "sibling"
    )
    translator_model: str | None = flag(
        None,
        "text models",
        "hub id, hub id@revision or folder, {language} for es, fr or de; default: Helsinki-NLP/opus-mt-en-{language}",
        path="folder",
    )
    translator_adapter: str | None = flag(
        None, "text models", "a LoRA adapter of the translator chat: hub id or folder", path="folder"
    )
    tone_rewriter: str | None = flag(
        None, "text models", "text model that changes the tone; default: llm_toys, and pocket for Pocket's sets", "sibling"
    )
    tone_rewriter_model: str | None = flag(
        None,
        "text models",
        "hub id, hub id@revision or folder; default: togethercomputer/RedPajama-INCITE-Base-3B-v1",
        path="folder",
    )
    tone_rewriter_adapter: str | None = flag(
        None,
        "text models",
        "its LoRA adapter; default: llm-toys/RedPajama-INCITE-Base-3B-v1-paraphrase-tone",
        path="folder",
    )
    convert_pickled_adapter: bool = flag(
        False,
        "text models",
        "allow loading an adapter that is published as a pickle only: its tensors are read and kept as safetensors",
    )
    text_model_dtype: str = flag(
        "auto",
        "text models",
        "precision of the text models; auto: bfloat16 on a GPU (float16 on an older one), float32 otherwise",
        choices=("auto", "float32", "bfloat16", "float16"),
    )

    drop: list[str] = flag((), "quality", "leave out examples with these findings; default: all are kept, and reported")
    length_models: list[str] = flag(
        (),
        "quality",
        "models whose chat templates and tokenizers measure lengths; default: the paper's three, and Pocket's for its sets",
        path="folder",
    )

    batch_size: int | None = flag(
        None,
        "machine",
        "texts rewritten per batch, after each of which a run can resume; default: the text model's own",
        range=COUNT,
    )
    workspace: str = flag(".", "machine", "folder that holds data")


def parse_preparation_arguments(argv: list[str]) -> tuple[PreparationArguments, list[str]]:
    """Parse a command line of `prepare_compositional_task_data.sh`; see `flags.parse`."""
    description = "Make the benchmark's data sets below data/: single-task sets and the 14 compositional ones."
    return parse(build_parser(PreparationArguments, "prepare_compositional_task_data.sh", description), PreparationArguments, argv)


POCKETS_LENGTH_MODELS = (POCKET,)
PAPERS_LENGTH_MODELS = tuple(model.hub_id for model in PAPER_MODELS)


@dataclass(frozen=True)
class SetPlan:
    """A set to be made, and the text model that rewrites its targets (None: they are as published)."""

    dataset: Dataset
    text_model_name: str | None
    text_model: TextModel | None
    length_models: tuple[str, ...]

    @property
    def name(self) -> str:
        """The set's name."""
        return self.dataset.name


@dataclass(frozen=True)
class PreparationPlan:
    """A call that holds together. Sets of one text model follow one another. `files_of_flags`: where parts of the call stood."""

    arguments: PreparationArguments
    workspace: Workspace
    sets: list[SetPlan]
    files_of_flags: Sequence[Path] = ()

    @property
    def needs_hub(self) -> bool:
        """Whether something may have to come from the hub: a source, a text model, or a tokenizer for the lengths."""
        models = [model for one in self.sets for model in one.length_models if not Model(model).is_local]
        return bool(models) or any(one.dataset.is_on_hub or one.text_model_name not in (None, POCKET) for one in self.sets)

    def rewritten(self, name: str) -> Path:
        """Where the rewritten targets of a set are kept."""
        return self.workspace.prepared_data(".rewritten") / f"{name}.jsonl"


def make_preparation_plan(
    arguments: PreparationArguments, parsing_mistakes: Sequence[str] = (), files_of_flags: Sequence[Path] = ()
) -> PreparationPlan:
    """Check a call; raises UserError with one line per mistake."""
    mistakes = [*parsing_mistakes, *_wrong_values(arguments)]
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
    return PreparationPlan(arguments, workspace, sorted(_with_shared_text_models(sets), key=_text_model_of), files_of_flags)


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
    mistakes = wrong_values(arguments)
    for name in arguments.drop:
        if name not in FINDINGS:
            mistakes.append(f"--drop {name}: there is no such finding: {nearest(name, FINDINGS)}")
    for kind in ("translator", "tone_rewriter"):
        value = getattr(arguments, kind)
        if value and value not in text_model_names():
            mistakes.append(f"--{kind} {value}: there is no such text model: {nearest(value, text_model_names())}")
    if arguments.raw_data_dir and not Path(arguments.raw_data_dir).is_dir():
        mistakes.append(f"--raw_data_dir {arguments.raw_data_dir}: there is no such folder")
    if fault := why_unwritable(Path(arguments.workspace) / "data"):
        mistakes.append(f"--workspace {arguments.workspace}: {fault}")
    return list(dict.fromkeys(mistakes))


def _chosen_sets(arguments: PreparationArguments, locations: Locations, mistakes: list[str]) -> list[Dataset]:
    """The sets that --only names; without it the paper's, or Pocket's. Patterns are those of file names."""
    known = all_datasets(locations)
    if arguments.pocket:
        known = {name: dataset for name, dataset in known.items() if dataset.benchmark == "pocket"}
    for pattern in arguments.only:
        if not any(fnmatchcase(name, pattern) for name in known):
            mistakes.append(f"--only {pattern}: there is no such set: {nearest(pattern, known)}")
    if arguments.only:
        return [dataset for name, dataset in known.items() if any(fnmatchcase(name, pattern) for pattern in arguments.only)]
    return [dataset for dataset in known.values() if dataset.benchmark == ("pocket" if arguments.pocket else "paper")]


def _set_plan(dataset: Dataset, arguments: PreparationArguments, workspace: Workspace) -> SetPlan:
    is_pockets = dataset.benchmark == "pocket"
    length_models = tuple(arguments.length_models) or (POCKETS_LENGTH_MODELS if is_pockets else PAPERS_LENGTH_MODELS)
    if not dataset.rewritten:
        return SetPlan(dataset, None, None, length_models)
    name, text_model = _text_model(dataset.tasks[-1], POCKET if is_pockets else None, arguments, workspace)
    if name == POCKET and not is_pockets:
        raise UserError(f"{dataset.name} can't be made by the text model pocket: it reads the English of Pocket's sets only")
    return SetPlan(dataset, name, text_model, length_models)


def _text_model(task: Task, default: str | None, arguments: PreparationArguments, workspace: Workspace) -> tuple[str, TextModel]:
    converted = workspace.prepared_data(".converted") if arguments.convert_pickled_adapter else None
    logs = workspace.root / "logs" / "preparation"
    if task.name == "translation":
        name = arguments.translator or default or "marian"
        if arguments.translator_adapter and name != "chat":
            raise UserError(f"--translator_adapter: the translator {name} takes no adapter; --translator chat does")
        settings = TextModelSettings(
            arguments.translator_model, arguments.translator_adapter, arguments.text_model_dtype, converted, logs
        )
        return name, find_text_model(name, task, settings, "--translator")
    name = arguments.tone_rewriter or default or "llm_toys"
    settings = TextModelSettings(
        arguments.tone_rewriter_model,
        arguments.tone_rewriter_adapter,
        arguments.text_model_dtype,
        converted,
        logs,
    )
    return name, find_text_model(name, task, settings, "--tone_rewriter")


def _text_model_of(plan: SetPlan) -> tuple[str, str, str]:
    """Sets as published come first, then those of one text model after another."""
    task = plan.dataset.tasks[-1]
    return (plan.text_model_name or "", task.name, task.variant or "") if plan.text_model_name else ("", "", "")
