"""Adapters and calibrations of models with tied embeddings and fewer key-value heads than query heads, and their storage."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from compositional.adapters.lora import LoraAdapter, LoraFactors
from compositional.adapters.peft_folder import WEIGHTS_FILE, StoredAdapter, read_adapter, read_shapes, write_adapter
from compositional.calibration import LC, LC_PLUS_PLUS, CalibrationSpec
from compositional.calibration.parameters import Calibration, read_biases
from compositional.core.errors import UserError
from compositional.models.model import Model
from compositional.prediction import PredictionSettings
from compositional.prediction.transformers_backend import TransformersGenerator
from compositional.prediction.vllm_backend import Engines, VllmGenerator
from compositional.training import LoraSettings, TrainingFolders
from compositional.training.corrected import fold_adapter
from compositional.training.recipes import train_calibration, train_lora
from helpers.calibrating import MODULES, random_calibration, random_merge
from helpers.chat_models import HEADS, HIDDEN, INNER, KEY_VALUE_HEADS, KEYS, LAYERS
from helpers.storing import RELATIVE_ERROR_OF_LOGITS, RELATIVE_ERROR_OF_UPDATE, relative_error
from helpers.tiny_runs import COMPOSED, TINY_RUN
from helpers.training import optimization, sequences_of

# Per module type, d_out and d_in.
SHAPES = {
    "q_proj": (HIDDEN, HIDDEN),
    "k_proj": (KEYS, HIDDEN),
    "v_proj": (KEYS, HIDDEN),
    "o_proj": (HIDDEN, HIDDEN),
    "gate_proj": (INNER, HIDDEN),
    "up_proj": (INNER, HIDDEN),
    "down_proj": (HIDDEN, INNER),
}
PROMPTS = [[5 + index % 90 for index in range(40)] + [9 + number] for number in range(6)]
SETTINGS = PredictionSettings("transformers", 12, 200, 8, "float32")


def by_type(shapes: dict[str, tuple[int, int]]) -> dict[str, tuple[int, int]]:
    """The shape of each module type, which is the same in all layers."""
    assert len(shapes) == LAYERS * len(SHAPES)
    return {path.rsplit(".", 1)[-1]: shape for path, shape in shapes.items()}


def stored(folder: Path, merged: LoraAdapter, method: str) -> Path:
    """A merge with a random calibration."""
    calibration = random_calibration(merged, method)
    write_adapter(folder, calibration.fold_into(merged), "float32")
    calibration.write(folder, "float32")
    return folder


# ---- tied embeddings


def hash_of(model: torch.nn.Module) -> str:
    """SHA-256 of the embeddings, whose products with hidden states must still be the logits."""
    weight, hidden = model.get_input_embeddings().weight, torch.ones(1, model.config.hidden_size)
    torch.testing.assert_close(model.get_output_embeddings()(hidden), hidden @ weight.T, rtol=1e-5, atol=1e-5)
    return hashlib.sha256(weight.detach().numpy().tobytes()).hexdigest()


@pytest.mark.slow
def test_training_folding_and_storing_leave_tied_embeddings_as_they_were(chat_model, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(chat_model)
    model = Model(str(chat_model)).load(torch.float32)
    before, sequences, pad = hash_of(model), sequences_of(tokenizer, 12), tokenizer.pad_token_id
    folders, settings = TrainingFolders(tmp_path / "checkpoints", tmp_path / "logs"), optimization(epochs=2.0)
    adapter, _ = train_lora(model, "b", sequences, pad, LoraSettings(4, 8, 0.0, list(MODULES)), settings, folders, "test")
    assert all(factors.B.any() for factors in adapter.factors.values())
    assert hash_of(model) == before
    write_adapter(tmp_path / "stored", adapter, "float32")
    names = load_file(tmp_path / "stored" / WEIGHTS_FILE)
    assert {name.split(".")[-3] for name in names} == set(MODULES)
    folded = Model(str(chat_model)).load(torch.float32)
    own = folded.model.layers[0].self_attn.q_proj.weight.clone()
    fold_adapter(folded, adapter)
    assert hash_of(folded) == before
    assert not torch.equal(folded.model.layers[0].self_attn.q_proj.weight, own)
    calibrated = Model(str(chat_model)).load(torch.float32)
    other_folders = TrainingFolders(tmp_path / "calibration", tmp_path / "logs")
    train_calibration(calibrated, [adapter], CalibrationSpec(LC, True), sequences, pad, settings, other_folders, "test")
    assert hash_of(calibrated) == before
    generator = TransformersGenerator(Model(str(chat_model)), StoredAdapter(tmp_path / "stored"), SETTINGS)
    assert hash_of(generator.model) == before


def test_modules_that_are_tied_are_known_without_the_weights(chat_model, tiny_models, tmp_path):
    settings = shutil.copytree(chat_model, tmp_path / "settings", ignore=shutil.ignore_patterns("*.safetensors"))
    assert Model(str(settings)).tied_modules == {"lm_head"}
    assert Model(str(tiny_models["stablelm"])).tied_modules == set()


def lm_head_adapter(folder: Path, base: Path) -> Path:
    """A random adapter of q_proj and lm_head, as PEFT stores it."""
    torch.manual_seed(0)
    config = LoraConfig(r=2, target_modules=["q_proj", "lm_head"], init_lora_weights=False, task_type="CAUSAL_LM")
    get_peft_model(AutoModelForCausalLM.from_pretrained(base), config).save_pretrained(folder, save_embedding_layers=False)
    return folder


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings")
@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (
            "--do_train --stored_model_name new --lora_target_modules q_proj lm_head",
            "--lora_target_modules q_proj lm_head: lm_head of {} is tied to the embeddings, which an update would change, too",
        ),
        (
            "--do_predict --stored_model_name tied",
            "adapter tied can't be used: lm_head of {} is tied to the embeddings, which an update would change, too",
        ),
        (
            f"{COMPOSED}--do_predict --lora_merge_strategy linear --lora_merge_modules tied plain",
            "adapter tied can't be used: lm_head of {} is tied to the embeddings, which an update would change, too",
        ),
    ],
    ids=["training", "prediction", "merge"],
)
def test_an_update_of_a_tied_lm_head_is_one_line(flags, expected, chat_model, run, workspace):
    lm_head_adapter(workspace.stored_model("tied"), chat_model)
    write_adapter(workspace.stored_model("plain"), random_merge(chat_model), "float32")
    with pytest.raises(UserError) as caught:
        run(f"{TINY_RUN}--model_name_or_path {chat_model} --experiment_name e --dataset pocket_dialogs {flags}")
    assert caught.value.mistakes == (expected.format(chat_model),)
    assert not workspace.output("e").exists()


@pytest.mark.slow
def test_an_lm_head_of_its_own_can_have_a_lora(tiny_models, run, workspace):
    model = tiny_models["stablelm"]
    run(
        f"{TINY_RUN}--model_name_or_path {model} --experiment_name e --dataset pocket_dialogs --stored_model_name e "
        "--do_train --do_predict --lora_target_modules q_proj lm_head"
    )
    assert "lm_head" in read_shapes(workspace.stored_model("e"))


# ---- fewer key-value heads than query heads


@pytest.mark.slow
def test_shapes_follow_the_key_value_heads(chat_model, tmp_path):
    assert (HEADS, KEY_VALUE_HEADS) == (9, 3)
    tokenizer = AutoTokenizer.from_pretrained(chat_model)
    folders = TrainingFolders(tmp_path / "checkpoints", tmp_path / "logs")
    model, sequences = Model(str(chat_model)).load(torch.float32), sequences_of(tokenizer, 6)
    lora = LoraSettings(4, 8, 0.0, list(MODULES))
    adapter, _ = train_lora(model, "b", sequences, tokenizer.pad_token_id, lora, optimization(), folders, "test")
    write_adapter(tmp_path / "stored", adapter, "float16")
    assert by_type(read_shapes(tmp_path / "stored")) == SHAPES
    folder = stored(tmp_path / "lc", adapter, LC)
    biases = read_biases(folder, read_shapes(folder))
    assert {path.rsplit(".", 1)[-1]: tuple(bias.shape) for path, bias in biases.items()} == {
        name: (d_out,) for name, (d_out, _) in SHAPES.items()
    }
    count = {
        method: Calibration(CalibrationSpec(method, True), read_shapes(folder)).num_parameters for method in (LC, LC_PLUS_PLUS)
    }
    assert count == {LC: sum(d_out for d_out, _ in SHAPES.values()), LC_PLUS_PLUS: 4 * sum(map(sum, SHAPES.values()))}


@pytest.mark.slow(40)
@pytest.mark.skipif(torch.cuda.is_available(), reason="the engine on a CPU is tested")
def test_vllm_says_what_transformers_says(chat_model, tmp_path):
    merged = random_merge(chat_model)
    folders = {"base": None, "merge": tmp_path / "merge", "lc": tmp_path / "lc", "lc_pp": tmp_path / "lc_pp"}
    write_adapter(folders["merge"], merged, "float32")
    stored(folders["lc"], merged, LC)
    stored(folders["lc_pp"], merged, LC_PLUS_PLUS)
    base, said = Model(str(chat_model)), {}
    with Engines(highest_rank=16) as engines:
        for name, folder in folders.items():
            adapter = StoredAdapter(folder) if folder else None
            said[name] = VllmGenerator(base, adapter, SETTINGS, engines, tmp_path / "vllm.log").answers(PROMPTS)
            assert said[name] == TransformersGenerator(base, adapter, SETTINGS).answers(PROMPTS), name
    assert all(said[one] != said[other] for one in said for other in said if one != other)


# ---- the precision of storage


@pytest.mark.parametrize("dtype", RELATIVE_ERROR_OF_UPDATE)
@pytest.mark.parametrize("scale", [1.0, 1e-2])
def test_a_stored_adapter_is_as_exact_as_its_precision(dtype, scale, chat_model, tmp_path):
    random = random_merge(chat_model)
    factors = {path: LoraFactors(one.A, scale * one.B, one.scaling) for path, one in random.factors.items()}
    write_adapter(tmp_path, LoraAdapter("exact", str(chat_model), factors), dtype)
    kept = read_adapter(tmp_path)
    errors = [relative_error(kept.factors[path].delta(), one.delta()) for path, one in factors.items()]
    limit = RELATIVE_ERROR_OF_UPDATE[dtype]
    assert limit / 10 < max(errors) < limit


@pytest.mark.parametrize("dtype", RELATIVE_ERROR_OF_LOGITS)
def test_logits_with_a_stored_adapter_are_as_exact_as_its_precision(dtype, chat_model, tmp_path):
    exact, ids = random_merge(chat_model), torch.tensor(PROMPTS)
    logits = []
    write_adapter(tmp_path, exact, dtype)
    for adapter in (None, exact, read_adapter(tmp_path)):
        model = Model(str(chat_model)).load(torch.float32)
        if adapter:
            fold_adapter(model, adapter)
        with torch.no_grad():
            logits.append(model(ids).logits)
    without, expected, found = logits
    assert relative_error(found - without, expected - without) < RELATIVE_ERROR_OF_LOGITS[dtype]


@pytest.mark.parametrize(
    ("value", "dtype", "expected"),
    [
        (7e4, "float16", r"up_proj.lora_A.weight has values up to 7e\+04, too large for float16: use another --adapter_dtype"),
        (float("nan"), "bfloat16", "has values that are no numbers: the training diverged; lower the learning rate"),
        (7e4, "bfloat16", None),
    ],
)
def test_values_that_a_precision_cannot_hold_are_one_line(value, dtype, expected, tmp_path):
    adapter = LoraAdapter("large", "", {"up_proj": LoraFactors(torch.tensor([[1.0, value]]), torch.ones(2, 1), 1.0)})
    calibration = Calibration(CalibrationSpec(LC, True), {"up_proj": (2, 2)})
    torch.nn.init.constant_(calibration.p["up_proj"], value)
    if expected is None:
        write_adapter(tmp_path, adapter, dtype)
        assert read_adapter(tmp_path).factors["up_proj"].delta().max().item() == pytest.approx(value, rel=1e-2)
        return
    with pytest.raises(UserError, match=expected):
        write_adapter(tmp_path, adapter, dtype)
    with pytest.raises(UserError, match=expected.replace("up_proj.lora_A.weight", "p.up_proj")):
        calibration.write(tmp_path, dtype)
