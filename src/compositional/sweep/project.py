"""Where a sweep's commands run: in the checkout that the package is part of, or in the current folder where it is installed."""

from __future__ import annotations

import os
from pathlib import Path


def find_checkout(package: Path) -> Path | None:
    """The folder that holds `src/<package>` and the scripts; None for a package that was installed from a wheel."""
    folder = package.parent.parent
    return folder if (folder / "run_experiment.py").is_file() else None


CHECKOUT = find_checkout(Path(__file__).parents[1])


def working_folder() -> Path:
    """The folder that commands run in."""
    return CHECKOUT or Path.cwd()


def is_another_elsewhere(path: str, kind: str) -> bool:
    """Whether a relative path means something else where commands run: there is such a "folder" or "file" here or there."""
    folders = (Path.cwd(), working_folder())
    is_one = Path.is_dir if kind == "folder" else Path.is_file
    return folders[0] != folders[1] and not Path(path).is_absolute() and any(is_one(folder / path) for folder in folders)


def python_path() -> str:
    """PYTHONPATH of child processes: it finds the package and the commands of a checkout that is not installed."""
    places = [str(CHECKOUT), str(CHECKOUT / "src")] if CHECKOUT else []
    return os.pathsep.join(filter(None, [*places, os.environ.get("PYTHONPATH")]))
