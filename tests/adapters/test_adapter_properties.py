"""Any adapter that PEFT saves for a tiny model gives PEFT's own logits, or is refused in one line."""

from __future__ import annotations

from copy import deepcopy
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, PreTrainedModel

from compositional.adapters.peft_folder import CONFIG_FILE, WEIGHTS_FILE, read_adapter, read_shapes, write_adapter
from compositional.training.corrected import fold_adapter
from helpers.properties import result_or_mistakes

# PEFT warns of settings that do nothing.
pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore")]
IDS = torch.arange(5, 25).view(2, 10)
NUMBERS = count()
MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
# Keys of PEFT's patterns: kinds of modules, ends of paths, whole paths, and regular expressions.
PATTERNS = st.sampled_from(
    [
        *MODULES,
        *(
            "layers.1.self_attn.v_proj",
            "model.layers.0.mlp.up_proj",
            "0.self_attn.q_proj",
            "^q_proj",
            "^model.layers.1.mlp.down_proj",
        ),
        *(
            ".*",
            "[qk]_proj",
            "layers.[01].mlp.*",
            "q_proj|v_proj",
            "self_attn",
            "proj",
            r".*\.1\..*",
            "model",
            "(q)_proj",
            "Q_PROJ",
        ),
    ]
)
NUMBERS_OF_PATTERNS = st.dictionaries(PATTERNS, st.integers(1, 9), max_size=3)
# Settings of plain adapters, and after them those of other kinds, one of which is enough for a refusal.
PLAIN = {
    "r": st.integers(1, 8),
    "lora_alpha": st.one_of(st.integers(1, 32), st.sampled_from([0.5, 7.25])),
    "use_rslora": st.booleans(),
    "rank_pattern": NUMBERS_OF_PATTERNS,
    "alpha_pattern": st.dictionaries(PATTERNS, st.one_of(st.integers(1, 20), st.just(2.5)), max_size=3),
    "target_modules": st.one_of(
        st.lists(st.sampled_from(MODULES), min_size=1, max_size=7, unique=True),
        st.sampled_from(["all-linear", r".*\.[qv]_proj", r"model\.layers\.1\..*_proj", "q_proj|.*down_proj"]),
        st.just(["q_proj", "layers.1.mlp.up_proj"]),
    ),
    "exclude_modules": st.one_of(st.none(), st.lists(PATTERNS, max_size=2), st.just(r".*\.0\..*")),
    "layers_to_transform": st.one_of(st.none(), st.integers(0, 1), st.lists(st.integers(0, 1), min_size=1, max_size=2)),
    "layers_pattern": st.one_of(st.none(), st.just("layers")),
    "lora_dropout": st.sampled_from([0.0, 0.3]),
    "fan_in_fan_out": st.booleans(),
    "init_lora_weights": st.sampled_from([True, False, "gaussian", "orthogonal", "mica", "eva"]),
    "inference_mode": st.booleans(),
}
OTHERS = {
    "bias": st.sampled_from(["all", "lora_only"]),
    "use_dora": st.just(True),
    "lora_bias": st.just(True),
    "modules_to_save": st.sampled_from([["lm_head"], ["norm"], ["embed_tokens"]]),
    "init_lora_weights": st.sampled_from(["pissa", "pissa_niter_2", "olora"]),
    "trainable_token_indices": st.just([1, 2]),
    "layer_replication": st.just([[0, 2], [1, 2]]),
    "target_modules": st.sampled_from([["embed_tokens"], ["q_proj", "lm_head"], ["embed_tokens", "v_proj"], ["lm_head"]]),
    "target_parameters": st.just(["self_attn.q_proj.weight"]),
    "ensure_weight_tying": st.just(True),
}


@st.composite
def options(draw: st.DrawFn) -> dict[str, Any]:
    needed = {name: PLAIN[name] for name in ("r", "target_modules")}
    plain = draw(st.fixed_dictionaries(needed, optional={name: one for name, one in PLAIN.items() if name not in needed}))
    return plain | (draw(st.fixed_dictionaries({}, optional=OTHERS)) if draw(st.integers(0, 3)) == 0 else {})


@pytest.fixture(scope="module")
def base(tiny_models) -> PreTrainedModel:
    """The tiny Llama, to be copied."""
    return AutoModelForCausalLM.from_pretrained(tiny_models["llama"])


@torch.no_grad()
def logits_of(model: Any) -> torch.Tensor:
    return model.eval()(IDS).logits


def saved(base: PreTrainedModel, folder: Path, chosen: dict[str, Any]) -> Path:
    """The folder that PEFT saves for these settings, with random factors; settings that PEFT refuses are no case."""
    torch.manual_seed(1)
    try:
        model = get_peft_model(deepcopy(base), LoraConfig(task_type="CAUSAL_LM", **chosen))
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_" in name or parameter.requires_grad:
                    parameter.add_(0.1 * torch.randn(parameter.shape))
        model.save_pretrained(str(folder))
    except (ValueError, TypeError, KeyError, AttributeError, NotImplementedError, RuntimeError, AssertionError):
        assume(False)
    return folder


def theirs(base: PreTrainedModel, folder: Path) -> torch.Tensor:
    return logits_of(PeftModel.from_pretrained(deepcopy(base), str(folder)))


def ours(base: PreTrainedModel, folder: Path) -> torch.Tensor:
    model = deepcopy(base)
    fold_adapter(model, read_adapter(folder))
    return logits_of(model)


@example(chosen={"r": 3, "target_modules": ["q_proj", "v_proj"], "alpha_pattern": {".*": 9, "q_proj": 2}, "use_rslora": True})
@example(
    chosen={"r": 3, "target_modules": "all-linear", "rank_pattern": {"[qk]_proj": 5}, "alpha_pattern": {"0.self_attn.q_proj": 2}}
)
@example(chosen={"r": 3, "target_modules": ["q_proj"], "init_lora_weights": "olora"})
@given(chosen=options())
@settings(max_examples=settings.default.max_examples // 4, suppress_health_check=list(HealthCheck))
def test_an_adapter_that_peft_saves_gives_pefts_logits_or_is_refused(chosen, base, tmp_path):
    folder = saved(base, tmp_path / str(next(NUMBERS)), chosen)
    adapter, mistakes = result_or_mistakes(read_adapter, folder)
    if mistakes:
        (line,) = mistakes
        assert line.startswith((str(folder / CONFIG_FILE), str(folder / WEIGHTS_FILE)))
        assert OTHERS.keys() & chosen.keys(), "a plain adapter is refused"
        return
    assert adapter.factors.keys() == read_shapes(folder).keys()
    try:
        expected = theirs(base, folder)
    except RuntimeError:  # PEFT sorts the patterns that it saves, and of two that match a module may then take the other's rank
        assume(False)
    torch.testing.assert_close(ours(base, folder), expected, rtol=1e-3, atol=1e-3)
    # Written by this project, PEFT reads it as the same.
    write_adapter(folder / "again", adapter, "float32")
    torch.testing.assert_close(theirs(base, folder / "again"), expected, rtol=1e-3, atol=1e-3)


DAMAGES = {
    "its end is cut off": lambda content, place: content[: place % len(content)],
    "one byte is another": lambda content, place: (
        content[: place % len(content)] + bytes([content[place % len(content)] ^ 0x55]) + content[place % len(content) + 1 :]
    ),
    "a byte too many": lambda content, place: content + b"\0",
}


@given(
    name=st.sampled_from([CONFIG_FILE, WEIGHTS_FILE]),
    damage=st.sampled_from(list(DAMAGES)),
    place=st.one_of(st.integers(0, 600), st.integers(0, 10**6)),
)
def test_a_damaged_folder_is_read_or_refused_in_one_line(name, damage, place, base, tmp_path):
    """Some damages give another adapter that is whole, such as another value of a factor; those are found by their hash."""
    folder = tmp_path / "whole"
    if not folder.exists():
        saved(base, folder, {"r": 2, "target_modules": ["q_proj"]})
    damaged = tmp_path / str(next(NUMBERS))
    damaged.mkdir()
    for one in (CONFIG_FILE, WEIGHTS_FILE):
        content = (folder / one).read_bytes()
        (damaged / one).write_bytes(DAMAGES[damage](content, place) if one == name else content)
    _, mistakes = result_or_mistakes(read_adapter, damaged)
    assert len(mistakes) <= 1
    assert all(str(damaged) in mistake for mistake in mistakes)


DTYPES = st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.bool])
SHAPES = st.lists(st.integers(0, 4), max_size=3)
KEYS = st.sampled_from(
    [
        *(
            f"base_model.model.model.layers.0.self_attn.{module}.lora_{kind}.weight"
            for module in ("q_proj", "v_proj")
            for kind in "AB"
        ),
        *("base_model.model.lm_head.weight", "base_model.model.a.lora_A.default.weight", "a.lora_A.weight", "x"),
    ]
)


@given(tensors=st.dictionaries(KEYS, st.tuples(SHAPES, DTYPES), max_size=4))
def test_tensors_of_any_names_shapes_and_types_are_factors_or_refused(tensors, base, tmp_path):
    folder = tmp_path / "whole"
    if not folder.exists():
        saved(base, folder, {"r": 2, "target_modules": ["q_proj"]})
    save_file({key: torch.ones(shape, dtype=dtype) for key, (shape, dtype) in tensors.items()}, folder / WEIGHTS_FILE)
    adapter, mistakes = result_or_mistakes(read_adapter, folder)
    assert len(mistakes) <= 1
    if adapter:
        assert 2 * len(adapter.factors) == len(load_file(folder / WEIGHTS_FILE))
        for factors in adapter.factors.values():
            assert factors.delta().shape == (factors.d_out, factors.d_in)
            assert factors.delta().dtype == torch.float32
