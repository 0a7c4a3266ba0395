"""A fact is found once and carried: what one LC++ run, checks to results, loads, hashes and executes."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import pytest

from compositional.core import files
from compositional.models import model
from helpers.tiny_runs import COMPOSED, MODULES, TINY_RUN, train_single_tasks


@pytest.fixture
def hashed(monkeypatch) -> Counter[str]:
    """How often each file is hashed, as folder/name, whichever module asks for it."""
    counted: Counter[str] = Counter()
    original = files.hash_of_files

    def counting(paths: list[Path]) -> str:
        counted.update(f"{path.parent.name}/{path.name}" for path in paths)
        return original(paths)

    for name, module in list(sys.modules.items()):
        if name.startswith("compositional.") and getattr(module, "hash_of_files", None) is original:
            monkeypatch.setattr(module, "hash_of_files", counting)
    return counted


@pytest.fixture
def loaded(monkeypatch) -> list[str]:
    """What tokenizers are loaded from."""
    from transformers import AutoTokenizer

    found: list[str] = []
    original = AutoTokenizer.from_pretrained

    def noting(location: str, *arguments, **options):
        found.append(location)
        return original(location, *arguments, **options)

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", noting)
    return found


@pytest.fixture
def strategy(tmp_path) -> Path:
    """A merge strategy of one's own that notes each time its file is executed."""
    path = tmp_path / "noted.py"
    path.write_text(
        "from pathlib import Path\n"
        "from compositional.adapters.lora import merged_by_module, stacked\n"
        "with open(Path(__file__).with_suffix('.executed'), 'a') as file:\n    file.write('x')\n"
        "def merge(adapters, weights):\n"
        "    return merged_by_module('noted', adapters, weights, lambda parts, path: stacked(parts))\n"
    )
    return path


@pytest.mark.slow(3)
def test_one_lc_pp_run_loads_the_tokenizer_once_hashes_each_file_once_and_executes_a_strategy_once(
    run, workspace, tiny_models, strategy, hashed, loaded, tmp_path
):
    import shutil

    base = shutil.copytree(tiny_models["llama"], tmp_path / "base")
    train_single_tasks(run, base)
    model._hash_of_unchanged.cache_clear()  # as in a process of its own
    hashed.clear()
    loaded.clear()
    learned = "--calibrate learnable_calibration_pp --for_each_component --merge_datasets pocket_dialogs_es --num_examples_merge 16"
    flags = f"{COMPOSED}{MODULES}--lora_merge_strategy {strategy} {learned} --do_valid --do_predict"
    run(f"{TINY_RUN}--experiment_name lc_pp {flags}")
    assert loaded == [str(base)]
    assert strategy.with_suffix(".executed").read_text() == "x"
    read = {"base/model.safetensors", *(f"{name}/adapter_model.safetensors" for name in ("sums", "translation", "lc_pp"))}
    assert read <= hashed.keys()
    assert set(hashed.values()) == {1}, hashed
