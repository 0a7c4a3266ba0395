"""The base model that a command means, and whether the named adapters are of it."""

from __future__ import annotations

from pathlib import Path

from src.adapters.peft_folder import AdapterConfig, read_config, read_shapes
from src.arguments import Arguments
from src.data import Dataset
from src.errors import Mistakes, UserError, nearest
from src.models import POCKET, BaseModel
from src.workspace import Workspace


def adapter_configs(workspace: Workspace, names: list[str], mistakes: Mistakes) -> dict[str, AdapterConfig]:
    configs = {}
    for name in names:
        folder = workspace.stored_model(name)
        if not folder.is_dir():
            stored = [path.name for path in folder.parent.glob("*") if path.is_dir() and not path.name.startswith(".")]
            hint = nearest(name, stored) if stored else "train it first, with --do_train"
            mistakes.append(f"there is no adapter {name} in {folder.parent}: {hint}")
        elif config := mistakes.attempt(read_config, folder):
            configs[name] = config
    return configs


def base_model(
    arguments: Arguments, configs: dict[str, AdapterConfig], main_set: Dataset | None, mistakes: Mistakes
) -> BaseModel | None:
    """The base model that is named, else the adapters', else Pocket's for Pocket's data."""
    named = arguments.model_name_or_path or mistakes.attempt(_base_of_stored_model, arguments)
    for name, config in configs.items():
        named = named or config.base_model
        mistakes.when(
            not _same_model(config.base_model, named),
            f"adapter {name} was trained on {config.base_model}, not on {named}: name adapters of one base model",
        )
    if not named and main_set and main_set.name.startswith("pocket_"):
        named = "pocket"
    if not named:
        if not mistakes:
            mistakes.append("--model_name_or_path is missing: a hub id, a folder, or pocket")
        return None
    # An adapter records its base by name: a folder's must not depend on where the command is typed.
    base = BaseModel(str(Path(named).resolve()) if named != POCKET and Path(named).is_dir() else named)
    mistakes.attempt(base.check_exists)
    return base


def _same_model(one: str, other: str) -> bool:
    return one == other or (Path(one).is_dir() and Path(other).is_dir() and Path(one).resolve() == Path(other).resolve())


def _base_of_stored_model(arguments: Arguments) -> str | None:
    """Zero-shot commands name the main task's adapter only to say which model is meant."""
    folder = Workspace(Path(arguments.workspace)).stored_model(arguments.stored_model_name or "")
    if arguments.zero_shot and arguments.stored_model_name and (folder / "adapter_config.json").is_file():
        return read_config(folder).base_model
    return None


def check_shapes_agree(workspace: Workspace, names: list[str]) -> None:
    first, *others = names
    shapes = read_shapes(workspace.stored_model(first))
    for other in others:
        for path, shape in read_shapes(workspace.stored_model(other)).items():
            if path in shapes and shapes[path] != shape:
                ours, theirs = " × ".join(map(str, shapes[path])), " × ".join(map(str, shape))
                raise UserError(f"adapters {first} and {other} do not fit together: {path} is {ours} in one, {theirs} in the other")
