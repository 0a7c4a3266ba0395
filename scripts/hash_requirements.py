"""Write requirements-cpu-hashes.txt: the CPU set with the SHA-256 of each file that pip chooses on this machine.

    python -m scripts.hash_requirements

The file is for one kind of machine, which its first line names. Run it again after a change of requirements-cpu.txt.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).parent.parent
SET, HASHED = PROJECT / "requirements-cpu.txt", PROJECT / "requirements-cpu-hashes.txt"
CPU_INDEX = "https://download.pytorch.org/whl/cpu"


def main() -> int:
    report = resolve()
    lines = sorted(line_of(one) for one in report["install"])
    HASHED.write_text("".join([*header(), *lines]), encoding="utf-8")
    print(f"{HASHED.name}: {len(lines)} packages")
    return 0


def resolve() -> dict[str, Any]:
    """pip's report on the files that it would install."""
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--no-deps", "--quiet"]
    done = subprocess.run([*command, "--report", "-", "-r", str(SET)], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def header() -> list[str]:
    """Comments that say for which machines the hashes are, and how the file is used."""
    kind = f"{platform.system()}, {platform.machine()}, Python {'.'.join(platform.python_version_tuple()[:2])}"
    use = f"pip install --require-hashes --no-deps --extra-index-url {CPU_INDEX} -r {HASHED.name}"
    return [f"# {SET.name} with hashes, for {kind}; written by scripts/hash_requirements.py.\n", f"# {use}\n"]


def line_of(one: dict[str, Any]) -> str:
    """A requirement with its hash; torch with the local version of its build for CPUs, which is not PyPI's."""
    name, version = one["metadata"]["name"].lower().replace("_", "-").replace(".", "-"), one["metadata"]["version"]
    return f"{name}=={version} --hash=sha256:{one['download_info']['archive_info']['hashes']['sha256']}\n"


if __name__ == "__main__":
    sys.exit(main())
