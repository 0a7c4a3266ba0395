"""What an adapter's folder may hold: each kind of PEFT's adapters gives PEFT's own logits, or is refused by name in one line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import BdLoraConfig, KasaConfig, MontecloraConfig, VeloraConfig
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from compositional.adapters import peft_config
from compositional.adapters.peft_folder import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    StoredAdapter,
    read_adapter,
    read_config,
    read_shapes,
    write_adapter,
)
from compositional.core.errors import UserError
from compositional.models.model import Model
from compositional.prediction import PredictionSettings
from compositional.prediction.transformers_backend import TransformersGenerator
from compositional.training.corrected import fold_adapter
from helpers.merging import random_adapter
from helpers.planning import COMPOSED, MERGED, ONE, mistakes_in, store

Options = dict[str, Any]
IDS = torch.arange(5, 25).view(2, 10)

PLAIN: dict[str, Options] = {
    "default": {},
    "gaussian": {"init_lora_weights": "gaussian"},
    "no initialisation": {"init_lora_weights": False},
    "EVA": {"init_lora_weights": "eva"},
    "orthogonal": {"init_lora_weights": "orthogonal"},
    "MiCA": {"init_lora_weights": "mica"},
    "rsLoRA": {"use_rslora": True},
    "ranks and alphas by module": {"rank_pattern": {"q_proj": 6}, "alpha_pattern": {"layers.1.self_attn.v_proj": 3}},
    "some layers": {"layers_to_transform": [1], "layers_pattern": "layers"},
    "some modules left out": {"exclude_modules": ["layers.0.self_attn.q_proj"]},
    "dropout": {"lora_dropout": 0.3},
    "transposed weights, which linear layers ignore": {"fan_in_fan_out": True},
    "tied weights, none of which it updates": {"ensure_weight_tying": True},
}
# PEFT makes these; the name that the refusal gives.
OTHERS: dict[str, tuple[str, Options]] = {
    "PiSSA": ("init_lora_weights pissa", {"init_lora_weights": "pissa"}),
    "fast PiSSA": ("init_lora_weights pissa_niter_2", {"init_lora_weights": "pissa_niter_2"}),
    "OLoRA": ("init_lora_weights olora", {"init_lora_weights": "olora"}),
    "aLoRA": ("alora_invocation_tokens [5, 6]", {"alora_invocation_tokens": [5, 6]}),
    "DoRA": ("use_dora True", {"use_dora": True}),
    "biases of the base": ("bias lora_only", {"bias": "lora_only"}),
    "biases of the factors": ("lora_bias True", {"lora_bias": True}),
    "fully trained modules": ("modules_to_save ['lm_head']", {"modules_to_save": ["lm_head"]}),
    "trained tokens": ("trainable_token_indices [1, 2]", {"trainable_token_indices": [1, 2]}),
    "repeated layers": ("layer_replication [[0, 2], [1, 2]]", {"layer_replication": [[0, 2], [1, 2]]}),
    "KaSA": ("kasa_config", {"kasa_config": KasaConfig()}),
    "BD-LoRA": ("use_bdlora", {"use_bdlora": BdLoraConfig(target_modules_bd_b=["q_proj", "v_proj"], nblocks=2)}),
    "VeLoRA": ("velora_config", {"velora_config": VeloraConfig()}),
    "MonteCLoRA": ("monteclora_config", {"monteclora_config": MontecloraConfig()}),
}
# These need data, a quantized base or several adapters to be made; so the settings alone are written.
WRITTEN: dict[str, tuple[str, Options]] = {
    "CorDA": ("init_lora_weights corda", {"init_lora_weights": "corda"}),
    "LoftQ": ("init_lora_weights loftq", {"init_lora_weights": "loftq", "loftq_config": {"loftq_bits": 4}}),
    "LoRA-GA": ("init_lora_weights lora_ga", {"init_lora_weights": "lora_ga"}),
    "PiSSA in capitals": ("init_lora_weights PiSSA", {"init_lora_weights": "PiSSA"}),
    "QALoRA": ("use_qalora True", {"use_qalora": True}),
    "Arrow": ("arrow_config", {"arrow_config": {"top_k": 2}}),
    "Megatron": ("megatron_config", {"megatron_config": {"hidden_size": 8}}),
    "experts": ("target_parameters ['gate_up_proj']", {"target_parameters": ["gate_up_proj"]}),
    "another method": ("peft_type IA3", {"peft_type": "IA3"}),
    "a setting of a later PEFT": ("use_xlora True", {"use_xlora": True}),
}


@pytest.fixture
def saved(tiny_models, tmp_path) -> Callable[[Options], Path]:
    """Makes an adapter with PEFT, moves what is trained by noise, and saves it as PEFT does."""

    def save(options: Options) -> Path:
        torch.manual_seed(1)
        model = AutoModelForCausalLM.from_pretrained(tiny_models["llama"])
        settings = {"r": 4, "lora_alpha": 10, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"} | options
        peft_model = get_peft_model(model, LoraConfig(**settings))
        with torch.no_grad():
            for parameter in peft_model.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.1 * torch.randn(parameter.shape))
        peft_model.save_pretrained(str(tmp_path / "adapter"))
        return tmp_path / "adapter"

    return save


def with_settings(folder: Path, **settings: Any) -> Path:
    path = folder / CONFIG_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    return folder


@torch.no_grad()
def logits_of(model: Any) -> torch.Tensor:
    return model.eval()(IDS).logits


@pytest.mark.parametrize("kind", PLAIN)
def test_a_plain_adapter_gives_the_logits_that_peft_gives(kind, saved, tiny_models):
    folder = saved(PLAIN[kind])
    base = AutoModelForCausalLM.from_pretrained(tiny_models["llama"])
    without = logits_of(base)
    fold_adapter(base, read_adapter(folder))
    theirs = logits_of(PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_models["llama"]), str(folder)))
    torch.testing.assert_close(logits_of(base), theirs, rtol=1e-4, atol=1e-4)
    assert (theirs - without).norm() > 0.01 * without.norm()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_back_end_of_transformers_gives_the_logits_that_peft_gives(dtype, saved, tiny_models):
    folder = saved(PLAIN["ranks and alphas by module"] | {"use_rslora": True})
    base, settings = Model(str(tiny_models["llama"])), PredictionSettings("transformers", 8, 512, 3, dtype)
    ours = logits_of(TransformersGenerator(base, StoredAdapter(folder), settings).model)
    theirs = logits_of(PeftModel.from_pretrained(base.load(getattr(torch, dtype)), str(folder)))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_the_back_end_of_transformers_uses_every_factor_whatever_the_settings_say_of_modules(saved, tiny_models):
    """As merges and vLLM do. PEFT would leave out the factors of the other layers and modules."""
    folder = saved({})
    base, settings = Model(str(tiny_models["llama"])), PredictionSettings("transformers", 8, 512, 3, "float32")
    expected = logits_of(TransformersGenerator(base, StoredAdapter(folder), settings).model)
    with_settings(folder, target_modules=["q_proj"], layers_to_transform=[1], lora_dropout="none", eva_config=5)
    torch.testing.assert_close(logits_of(TransformersGenerator(base, StoredAdapter(folder), settings).model), expected)


@pytest.mark.parametrize("kind", OTHERS)
def test_an_adapter_of_another_arithmetic_is_refused_by_name(kind, saved):
    name, options = OTHERS[kind]
    check_refused(saved(options), name)


@pytest.mark.parametrize("kind", WRITTEN)
def test_settings_of_another_arithmetic_are_refused_by_name(kind, saved):
    name, settings = WRITTEN[kind]
    check_refused(with_settings(saved({}), **settings), name)


# What PEFT takes as unset, and what it does not, by setting.
UNSET: list[Options] = [
    {"bias": "none"},
    {"use_dora": False},
    {"lora_bias": None},
    {"modules_to_save": []},
    {"layer_replication": []},
    {"target_parameters": []},
    {"megatron_config": {}},
    {"kasa_config": None},
    {"a_switch_of_a_later_peft": False},
]
SET_THOUGH_EMPTY: list[Options] = [
    {"bias": None},
    {"bias": ""},
    {"use_dora": "none"},
    {"lora_bias": "none"},
    {"alora_invocation_tokens": []},
    {"trainable_token_indices": []},
    {"trainable_token_indices": False},
    {"arrow_config": {}},
    {"kasa_config": {}},
    {"kasa_config": False},
    {"velora_config": {}},
    {"monteclora_config": {}},
    {"use_bdlora": {}},
    {"use_bdlora": False},
    {"settings_of_a_later_peft": {}},
]


@pytest.mark.parametrize("settings", UNSET, ids=str)
def test_a_setting_that_peft_takes_as_unset_is_plain(settings, saved, tiny_models):
    folder = saved({})
    expected = read_adapter(folder)
    found = read_adapter(with_settings(folder, **settings))
    assert {path: factors.scaling for path, factors in found.factors.items()} == dict.fromkeys(expected.factors, 2.5)
    if not any("later_peft" in name for name in settings):
        base = AutoModelForCausalLM.from_pretrained(tiny_models["llama"])
        theirs = logits_of(PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_models["llama"]), str(folder)))
        fold_adapter(base, found)
        torch.testing.assert_close(logits_of(base), theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("settings", SET_THOUGH_EMPTY, ids=str)
def test_a_setting_that_is_empty_but_not_unset_is_refused_by_name(settings, saved):
    ((name, value),) = settings.items()
    check_refused(with_settings(saved({}), **settings), f"{name} {value}")


def check_refused(folder: Path, name: str) -> None:
    for read in (read_config, read_adapter):
        with pytest.raises(UserError) as caught:
            read(folder)
        (line,) = caught.value.mistakes
        assert str(folder / CONFIG_FILE) in line
        assert f"only plain LoRA adapters can be used, and this one has {name}" in line
        assert "\n" not in line


def test_a_command_that_names_an_adapter_of_another_arithmetic_is_refused_before_anything_is_written(workspace):
    for name in ("sums", "trans"):
        store(workspace, name)
    before = sorted(workspace.root.rglob("*"))
    with_settings(workspace.stored_model("trans"), alora_invocation_tokens=[5, 6])
    for flags in (f"{COMPOSED}{MERGED}--do_predict", f"{ONE}--stored_model_name trans --do_predict"):
        (line,) = mistakes_in(flags, workspace)
        assert "this one has alora_invocation_tokens [5, 6]" in line
    assert sorted(workspace.root.rglob("*")) == before


def test_a_base_model_that_brings_an_adapter_is_refused(saved, tiny_models, tmp_path):
    """transformers would load the adapter with the base model, and zero-shot answers would be the adapter's."""
    base = shutil.copytree(tiny_models["llama"], tmp_path / "base")
    Model(str(base)).check_exists()
    shutil.copytree(saved({}), base, dirs_exist_ok=True)
    with pytest.raises(UserError, match=r"the folder also holds an adapter \(adapter_config.json\)"):
        Model(str(base)).check_exists()
    theirs = logits_of(AutoModelForCausalLM.from_pretrained(base))
    assert (theirs - logits_of(AutoModelForCausalLM.from_pretrained(tiny_models["llama"]))).abs().max() > 0.01


@pytest.mark.parametrize("initialisation", ["pissa", "olora"])
def test_an_initialisation_that_changes_the_base_is_far_from_the_factors_alone(initialisation, saved, tiny_models):
    """Why it is refused: read as a plain adapter, it would be wrong by much."""
    folder = saved({"init_lora_weights": initialisation})
    theirs = logits_of(PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_models["llama"]), str(folder)))
    base = AutoModelForCausalLM.from_pretrained(tiny_models["llama"])
    fold_adapter(base, read_adapter(with_settings(folder, init_lora_weights=True)))
    assert (logits_of(base) - theirs).norm() > 0.1 * theirs.norm()


def test_pefts_own_conversion_of_pissa_is_what_the_refusal_says(saved, tiny_models, tmp_path):
    """The remedy named in the refusal gives an adapter that is accepted, with the logits of the original."""
    torch.manual_seed(1)
    options = {"r": 4, "lora_alpha": 10, "target_modules": ["q_proj"], "task_type": "CAUSAL_LM", "init_lora_weights": "pissa"}
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_models["llama"]), LoraConfig(**options))
    model.peft_config["default"].init_lora_weights = True
    model.save_pretrained(str(tmp_path / "first"))
    model.peft_config["default"].init_lora_weights = "pissa"
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape))
    model.save_pretrained(str(tmp_path / "plain"), path_initial_model_for_weight_conversion=str(tmp_path / "first"))
    base = AutoModelForCausalLM.from_pretrained(tiny_models["llama"])
    fold_adapter(base, read_adapter(tmp_path / "plain"))
    torch.testing.assert_close(logits_of(base), logits_of(model), rtol=1e-3, atol=1e-3)


def test_all_settings_of_another_arithmetic_are_named_at_once(saved):
    folder = with_settings(saved({}), use_dora=True, bias="all", init_lora_weights="olora")
    with pytest.raises(UserError) as caught:
        read_config(folder)
    (line,) = caught.value.mistakes
    assert all(name in line for name in ("use_dora True", "bias all", "init_lora_weights olora"))


def test_every_setting_of_the_installed_peft_is_decided():
    """A setting of PEFT's is read, harmless, or refused unless it is unset, as it is by default."""
    decided = peft_config._DEFINING | peft_config._HARMLESS
    defaults = {f.name: f.default_factory() if f.default is MISSING else f.default for f in fields(LoraConfig)}
    assert decided <= defaults.keys()
    assert {name for name, value in defaults.items() if value and name not in decided} <= {"bias"}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"lora_alpha": "16"}, "lora_alpha is '16', a number is expected"),
        ({"lora_alpha": None}, "lora_alpha is None, a number is expected"),
        ({"r": 0}, "r is 0, a whole number above 0 is expected"),
        ({"r": 2.5}, "r is 2.5, a whole number above 0 is expected"),
        ({"r": "eight"}, "r is 'eight', a whole number above 0 is expected"),
        ({"init_lora_weights": [1]}, "init_lora_weights is [1], true, false or a text is expected"),
        ({"use_rslora": "no"}, "use_rslora is 'no', true or false is expected"),
        ({"base_model_name_or_path": 7}, "base_model_name_or_path is 7, a text is expected"),
        ({"alpha_pattern": {"(": 2}}, "an object of regular expressions and numbers is expected"),
        ({"alpha_pattern": [1]}, "an object of regular expressions and numbers is expected"),
        ({"alpha_pattern": {"q_proj": "2"}}, "an object of regular expressions and numbers is expected"),
        ({"alpha_pattern": {"q{99999999999}": 2}}, "an object of regular expressions and numbers is expected"),
        ({"rank_pattern": {"[": 2}}, "rank_pattern is {'[': 2}, an object of regular expressions and whole numbers above 0 is"),
        ({"rank_pattern": {"q_proj": 1.5}}, "an object of regular expressions and whole numbers above 0 is expected"),
        ({"target_modules": 5}, "target_modules is 5, a text or a list of texts is expected"),
        ({"target_modules": 0}, "target_modules is 0, a text or a list of texts is expected"),
        ({"target_modules": [None]}, "target_modules is [None], a text or a list of texts is expected"),
    ],
)
def test_a_setting_of_another_type_is_one_line(settings, expected, tmp_path):
    write_adapter(tmp_path / "a", random_adapter("a", 2, 1.0, 0), "float32")
    with pytest.raises(UserError, match="is damaged") as caught:
        read_adapter(with_settings(tmp_path / "a", **settings))
    (line,) = caught.value.mistakes
    assert expected in line


FIRST = "model.layers.0.mlp.up_proj"


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (
            {"alpha_pattern": {"layers.0.mlp.up_proj": 3, "up_proj": 4}},
            f"alpha_pattern has several values for {FIRST} (3 and 4): leave one pattern that matches it",
        ),
        (
            {"rank_pattern": {"up_proj": 2, r".*\.0\..*": 3}},
            f"rank_pattern has several values for {FIRST} (2 and 3): leave one pattern that matches it",
        ),
        ({"r": 3}, f"it states rank 3 for {FIRST}, whose factors have rank 2"),
        ({"rank_pattern": {"up_proj": 5}}, f"it states rank 5 for {FIRST}, whose factors have rank 2"),
    ],
)
def test_settings_that_do_not_fit_the_factors_are_one_line(settings, expected, tmp_path):
    """PEFT sorts patterns when it saves, so which of several came first is lost; vLLM scales by the rank that is stated."""
    write_adapter(tmp_path / "a", random_adapter("a", 2, 1.0, 0), "float32")
    for read in (read_config, read_adapter):
        with pytest.raises(UserError) as caught:
            read(with_settings(tmp_path / "a", **settings))
        assert list(caught.value.mistakes) == [f"{tmp_path / 'a' / CONFIG_FILE} does not fit {WEIGHTS_FILE}: {expected}"]


@pytest.mark.parametrize("pattern", [{"up_proj": 3, "mlp.up_proj": 3}, {"up_proj": 3, "q_proj": 4}])
def test_patterns_that_give_each_module_one_value_are_read(pattern, tmp_path):
    write_adapter(tmp_path / "a", random_adapter("a", 2, 1.0, 0), "float32")
    assert read_adapter(with_settings(tmp_path / "a", alpha_pattern=pattern)).factors[FIRST].scaling == 3 / 2


KEY = "base_model.model.model.layers.0.mlp.up_proj.lora_{}.weight"


@pytest.mark.parametrize(
    ("tensors", "expected"),
    [
        ({"A": torch.zeros(0), "B": torch.zeros(0)}, "has the shape [0]"),
        ({"A": torch.ones(2, 6), "B": torch.ones(5, 3)}, "have the ranks 2 and 3"),
        ({"A": torch.ones(2, 6)}, "has one factor only"),
        ({}, "has no factors"),
        ({"A": torch.full((2, 6), torch.nan), "B": torch.ones(5, 2)}, "has values that are no numbers"),
        ({"A": torch.full((2, 6), torch.inf), "B": torch.ones(5, 2)}, "has values that are no numbers"),
    ],
    ids=["empty as of ZeRO-3", "two ranks", "one factor", "nothing", "not a number", "infinite"],
)
def test_tensors_that_are_no_factors_are_one_line(tensors, expected, tmp_path):
    write_adapter(tmp_path / "a", random_adapter("a", 2, 1.0, 0), "float32")
    save_file({KEY.format(factor): tensor for factor, tensor in tensors.items()}, tmp_path / "a" / WEIGHTS_FILE)
    with pytest.raises(UserError) as caught:
        read_adapter(tmp_path / "a")
    (line,) = caught.value.mistakes
    assert str(tmp_path / "a" / WEIGHTS_FILE) in line
    assert expected in line


def test_what_this_project_writes_is_plain(tmp_path):
    write_adapter(tmp_path / "a", random_adapter("a", 2, 1.0, 0), "float16")
    assert read_shapes(tmp_path / "a") == {"model.layers.0.mlp.up_proj": (5, 6)}
    assert load_file(tmp_path / "a" / WEIGHTS_FILE).keys() == {KEY.format("A"), KEY.format("B")}
