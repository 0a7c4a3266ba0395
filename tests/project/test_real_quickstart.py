"""The real lane from the first step to the table, with a tiny model in place of SmolLM2 and a few conversations."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import pytest

import real_quickstart
from compositional.core.errors import UserError
from compositional.core.workspace import Workspace
from compositional.data import dialogsum
from compositional.models import smollm2

ROWS = real_quickstart.METHODS


@pytest.fixture
def raw(tmp_path) -> Path:
    """The publishers' files: 20 conversations in the validation file alone, and 40 sentences in their tones."""
    folder = tmp_path / "raw_text"
    folder.mkdir()
    talks = [
        f'a,b,"User 1: Hello, I have {n} cats.\nUser 2: {n} cats, how nice!\nUser 1: Do you like cats?\nUser 2: Not {n} of them."\n'
        for n in range(20)
    ]
    header = "user 1 personas,user 2 personas,Best Generated Conversation\n"
    (folder / "Synthetic-Persona-Chat_valid.csv").write_text(header + "".join(talks))
    tones = ("casual", "professional", "witty", "paraphrase")
    rows = [{"original": f"I saw {n} of them.", **{tone: f"{tone}: {n} were seen." for tone in tones}} for n in range(40)]
    (folder / "paraphrase_tone.json").write_text(json.dumps(rows))
    return folder


@pytest.mark.slow(25)
def test_it_goes_from_text_to_table_and_is_done_when_it_is_run_again(raw, tiny_models, workspace, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    base = Path(shutil.copytree(tiny_models["llama"], workspace.root.parent / "long"))
    config = json.loads((base / "config.json").read_text()) | {"max_position_embeddings": 8192}
    (base / "config.json").write_text(json.dumps(config))  # an untrained rewriter writes as much as it may
    monkeypatch.setattr(smollm2, "base_model", lambda workspace: str(base))
    small = "--main_examples 32 --tone_examples 16 --composed_examples 16 --test_examples 6 --seeds 0 1 --compare_targets 8 16"
    words = ["--raw_data_dir", str(raw), "--workspace", str(workspace.root), *small.split()]
    real_quickstart.run(words)
    text = (workspace.root / "output" / "real_quickstart_reply_tone_professional.md").read_text()
    table = [line.split("|") for line in text.splitlines() if line.startswith("| ")]
    compared = ("composed targets, 8", "multi-step targets, 8", "multi-step targets, 16")  # 16 composed ones have LC++'s own row
    assert [row[1].strip() for row in table[1:-1]] == [*ROWS, *(f"LC++, {one} inputs" for one in compared)]
    assert text.count("- target: ") == 6
    assert text.count("- Learnable Calibration++: ") == 6
    assert "rank 8 and seed 7" in text
    stored = Workspace(workspace.root).stored_model("professional_rewriter_lora")
    made = [path for kind in ("stored_models", "predictions") for path in (workspace.root / kind).rglob("*") if path.is_file()]
    before = {path: path.stat().st_mtime_ns for path in made}
    assert stored.is_dir()
    real_quickstart.run(words)
    assert (workspace.root / "output" / "real_quickstart_reply_tone_professional.md").read_text() == text
    assert {path: path.stat().st_mtime_ns for path in before} == before


@pytest.mark.slow(25)
def test_summaries_in_another_tone_are_made_of_the_publishers_validation_file_alone(raw, tiny_models, workspace, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    base = Path(shutil.copytree(tiny_models["llama"], workspace.root.parent / "long"))
    config = json.loads((base / "config.json").read_text()) | {"max_position_embeddings": 8192}
    (base / "config.json").write_text(json.dumps(config))
    monkeypatch.setattr(smollm2, "base_model", lambda workspace: str(base))
    talks = [
        {"fname": f"dev_{n}", "dialogue": f"#Person1#: I have {n} cats.", "summary": f"{n} cats.", "topic": "cats"}
        for n in range(126)
    ]
    (raw / "dialogsum.dev.jsonl").write_text("".join(f"{json.dumps(talk)}\n" for talk in talks))
    small = "--main_examples 4 --tone_examples 4 --composed_examples 4 --test_examples 2 --seeds 1 --methods main_lora linear_merge"
    asked = f"--main_task summarization --tone witty --raw_data_dir {raw} --workspace {workspace.root} {small}"
    real_quickstart.run(shlex.split(asked))
    split = {
        name: len((workspace.root / "raw" / f"dialogsum.{name}.jsonl").read_text().splitlines())
        for name in ("train", "dev", "test")
    }
    assert split == {"train": 6, "dev": 20, "test": 100}
    assert workspace.stored_model("dialogsum_lora_seed1").is_dir()
    text = (workspace.root / "output" / "real_quickstart_sum_tone_witty.md").read_text()
    rows = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| ")]
    assert rows[1:-1] == ["Main-task LoRA", "Linear merge"]
    assert "sum_tone_witty by SmolLM2-135M-Instruct, 2 test examples; seeds of everything that is trained: 1." in text
    assert "With one seed, the intervals leave out how much training varies." in text


def test_dialogues_are_split_by_a_seeded_choice_without_loss(tmp_path):
    rows = [{"fname": f"dev_{n}", "dialogue": f"#Person1#: «{n}»", "summary": str(n)} for n in range(130)]
    publishers = tmp_path / "dialogsum.dev.jsonl"
    publishers.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    splits = {}
    for folder in (tmp_path / "one", tmp_path / "two"):
        assert dialogsum.split_dialogues(publishers, folder) == folder
        texts = [(folder / f"dialogsum.{split}.jsonl").read_text() for split in ("train", "dev", "test")]
        splits[folder.name] = [[json.loads(line) for line in text.splitlines()] for text in texts]
    assert splits["one"] == splits["two"]
    assert [len(split) for split in splits["one"]] == [10, 20, 100]
    assert sorted(str(row) for split in splits["one"] for row in split) == sorted(map(str, rows))
    publishers.write_text("".join(f"{json.dumps(row)}\n" for row in rows[:120]))
    with pytest.raises(UserError, match="it has 120 entries; more than 120 are needed"):
        dialogsum.split_dialogues(publishers, tmp_path / "one")


def test_what_it_needs_is_said_before_anything_is_written(tmp_path):
    folder = tmp_path / "new"
    with pytest.raises(UserError, match=r"paraphrase_tone.json is missing: it is in github.com/kuutsav/llm-toys"):
        real_quickstart.run(["--raw_data_dir", str(tmp_path), "--workspace", str(folder)])
    with pytest.raises(UserError, match="there is no such folder"):
        real_quickstart.run(["--raw_data_dir", str(tmp_path / "nowhere"), "--workspace", str(folder)])
    with pytest.raises(UserError, match="--compare_targets 9: at most --composed_examples 8"):
        real_quickstart.run(["--composed_examples", "8", "--compare_targets", "9", "--workspace", str(folder)])
    assert not folder.exists()
