"""Copies of this checkout, to be built or changed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from helpers import PROJECT


def copy_checkout(folder: Path) -> Path:
    """Copy what git has, or would add, to a folder, so that no build and no change leaves anything in the checkout."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(command, cwd=PROJECT, capture_output=True, check=True).stdout.decode().split("\0")
    for name in filter(None, names):
        source, target = PROJECT / name, folder / name
        if source.exists():  # one that was deleted since the last commit does not
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target, follow_symlinks=False)
    return folder
