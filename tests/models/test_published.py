"""Models by their publishers' names: names and revisions, what a folder must hold, and adapters that are pickles."""

from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import helpers.text_models as tiny
from compositional.adapters.peft_folder import WEIGHTS_FILE
from compositional.adapters.published import PICKLED_WEIGHTS_FILE, adapter_to_load
from compositional.core.errors import UserError
from compositional.models.model import Model
from compositional.preparation.text_models import TextModel, TextModelSettings, find_text_model
from compositional.tasks import find_task

TEXTS = ["Tom will cook a heavy soup.", "Where did you break the green lamp?", "Zoë!"]


def translator(model: Path | str) -> TextModel:
    return find_text_model("marian", find_task("translation", "es"), TextModelSettings(str(model)), "--translator")


def tone_rewriter(model: Path | str, adapter: Path | str, converted: Path | None = None) -> TextModel:
    settings = TextModelSettings(str(model), str(adapter), "float32", converted)
    return find_text_model("llm_toys", find_task("tone_adjustment", "casual"), settings, "--tone_rewriter")


def mistake(action: Callable[[], object]) -> str:
    """The one line that an action ends with."""
    with pytest.raises(UserError) as caught:
        action()
    assert len(caught.value.mistakes) == 1
    assert "\n" not in caught.value.mistakes[0]
    return caught.value.mistakes[0]


@pytest.fixture(scope="module")
def folders(tmp_path_factory, tiny_tokenizer) -> dict[str, Path]:
    """Folders of a translator, of a tone rewriter's model, and of its adapter in both formats."""
    folder = tmp_path_factory.mktemp("published")
    model = tiny.build_tone_model(folder / "model", tiny_tokenizer)
    adapter = tiny.build_tone_adapter(folder / "adapter", model)
    translator = tiny.build_translator(folder / "translator")
    return {"translator": translator, "model": model, "adapter": adapter, "pickled": tiny.pickled(adapter, folder / "pickled")}


def test_a_name_may_have_a_revision_and_a_folder_has_none(tmp_path):
    parts = [(model.location, model.requested_revision) for model in map(Model, ("a/b", "a/b@v1", "a/b@refs/pr/1"))]
    assert parts == [("a/b", "main"), ("a/b", "v1"), ("a/b", "refs/pr/1")]
    assert [Model(name).identity_without_network for name in ("a/b", "a/b@v1")] == ["a/b@main", "a/b@v1"]
    (tmp_path / "x@v1").mkdir()
    assert Model(str(tmp_path / "x@v1")).location == str(tmp_path / "x@v1")


def test_a_model_that_cannot_be_had_is_one_line_that_names_it(folders, tmp_path):
    bare, empty = tmp_path / "bare", tmp_path / "empty"
    shutil.copytree(folders["translator"], bare, ignore=shutil.ignore_patterns("*.safetensors"))
    empty.mkdir()
    reasons = {
        "/nowhere/model": "there is no such folder",
        "~/nowhere": "there is no such folder",
        str(empty): "has no config.json",
        str(bare): "has no weights (*.safetensors)",
        "nobody/no-such-model@v9": "could not be loaded: We couldn't connect",
        str(folders["model"]): "expected a Marian model, found gpt_neox",
    }
    for name, reason in reasons.items():
        found = mistake(translator(name).check)
        assert found.startswith(f"--translator_model {name}"), found
        assert reason in found
    for name in ("nobody/no-such-adapter", "/nowhere/adapter", str(empty)):
        assert mistake(tone_rewriter(folders["model"], name).check).startswith(f"--tone_rewriter_adapter {name}")
    assert mistake(tone_rewriter("nobody/no-such-model", folders["adapter"]).check).startswith("--tone_rewriter_model nobody/")


@pytest.mark.parametrize("which", ["translator", "model", "adapter"])
def test_what_a_folder_holds_is_its_identity(which, folders, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(folders[which], copy, ignore=shutil.ignore_patterns("README.md"))
    before = Model(str(copy)).identity
    assert before == Model(str(folders[which])).identity
    for path in copy.iterdir():
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        assert Model(str(copy)).identity != before, path.name
        path.write_bytes(content)


def test_a_pickled_adapter_is_converted_only_when_asked_and_once(folders, tmp_path):
    from safetensors.torch import load_file

    assert "--convert_pickled_adapter" in mistake(tone_rewriter(folders["model"], folders["pickled"]).check)
    asked = tone_rewriter(folders["model"], folders["pickled"], tmp_path / "converted")
    asked.check()
    assert not (tmp_path / "converted").exists()
    asked.start()
    (made,) = (path for path in (tmp_path / "converted").iterdir() if path.is_dir())
    assert sorted(path.name for path in made.iterdir()) == ["adapter_config.json", WEIGHTS_FILE]
    tensors, expected = load_file(made / WEIGHTS_FILE), load_file(folders["adapter"] / WEIGHTS_FILE)
    assert tensors.keys() == expected.keys()
    assert all((tensors[name] == expected[name]).all() for name in expected)
    inode = made.stat().st_ino
    asked.stop()
    asked.start()
    assert [path.stat().st_ino for path in (tmp_path / "converted").iterdir() if path.is_dir()] == [inode], "it was converted again"
    published = tone_rewriter(folders["model"], folders["adapter"])
    published.start()
    assert asked.rewrite(TEXTS) == published.rewrite(TEXTS)


def unpickled(folder: Path, converted: Path) -> str:
    """The line that reading an adapter's pickle ends with."""
    return mistake(lambda: adapter_to_load(Model(str(folder), "--tone_rewriter_adapter"), converted))


class Bomb:
    """What a pickle can do to the one who reads it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("written_by", ["torch", "pickle"])
def test_a_pickle_with_more_than_tensors_is_refused_and_not_run(written_by, folders, tmp_path):
    import torch

    crater = tmp_path / "crater"
    bomb = pickle.dumps({"lora": Bomb(crater)}, protocol=2)
    pickle.loads(bomb)
    crater.rmdir()  # it is a live one
    folder = shutil.copytree(folders["pickled"], tmp_path / "pickled")
    if written_by == "pickle":
        (folder / PICKLED_WEIGHTS_FILE).write_bytes(bomb)
    else:
        torch.save({"lora": torch.ones(2), "more": Bomb(crater)}, folder / PICKLED_WEIGHTS_FILE)
    assert "holds more than tensors" in unpickled(folder, tmp_path / "converted")
    assert not crater.exists()
    assert not [path for path in (tmp_path / "converted").iterdir() if path.is_dir()]


def test_another_pickled_adapter_in_the_same_folder_is_converted_anew(folders, tmp_path):
    import torch

    folder = shutil.copytree(folders["pickled"], tmp_path / "pickled")
    one = adapter_to_load(Model(str(folder), "--tone_rewriter_adapter"), tmp_path / "converted")
    tensors = torch.load(folder / PICKLED_WEIGHTS_FILE, weights_only=True)
    torch.save({name: 2 * tensor for name, tensor in tensors.items()}, folder / PICKLED_WEIGHTS_FILE)
    other = adapter_to_load(Model(str(folder), "--tone_rewriter_adapter"), tmp_path / "converted")
    assert one.identity != other.identity


@pytest.mark.parametrize("found", ["nothing", "text", "half a file", "a number", "a list"])
def test_a_pickle_that_holds_no_tensors_is_one_line(found, folders, tmp_path):
    import torch

    folder = shutil.copytree(folders["pickled"], tmp_path / "pickled")
    path = folder / PICKLED_WEIGHTS_FILE
    if found in ("a number", "a list"):
        torch.save({"rank": 4} if found == "a number" else [torch.ones(2)], path)
    else:
        path.write_bytes({"nothing": b"", "text": b"hello world", "half a file": path.read_bytes()[:-500]}[found])
    assert str(folder) in unpickled(folder, tmp_path / "converted")


@pytest.mark.parametrize(
    ("which", "file"),
    [
        ("translator", "model.safetensors"),
        ("translator", "source.spm"),
        ("model", "model.safetensors"),
        ("adapter", WEIGHTS_FILE),
        ("adapter", "adapter_config.json"),
        ("pickled", "adapter_config.json"),
    ],
)
def test_a_model_with_a_broken_or_missing_file_is_one_line(which, file, folders, tmp_path):
    broken = shutil.copytree(folders[which], tmp_path / "broken")
    if file.endswith(".safetensors"):
        (broken / file).write_bytes(b"broken off")
    else:
        (broken / file).unlink()
    chosen = folders | {which: broken}
    adapter = chosen["pickled" if which == "pickled" else "adapter"]
    model = translator(broken) if which == "translator" else tone_rewriter(chosen["model"], adapter, tmp_path / "converted")

    def check_and_start() -> None:
        model.check()
        model.start()

    assert str(broken) in mistake(check_and_start)
