"""What an adapter's folder may hold: a plain LoRA, whose modules compute W x + s B A x, as PEFT 0.21 describes it.

adapter_config.json has dozens of settings. Those in `_DEFINING` are read, and those in `_HARMLESS` do not change what a stored
adapter computes. Every other setting must be unset, because it stands for another arithmetic: DoRA, aLoRA, KaSA, block-diagonal,
routed or fully trained modules, and whatever a later PEFT brings. Such an adapter is refused by the setting's name. So is an
initialisation that changes the base weights, such as PiSSA's: its factors fit the changed weights only.

What counts as unset differs by setting: to PEFT, an empty list of `modules_to_save` is none, an empty `kasa_config` is KaSA with
its defaults, and `bias` is unset by the word "none".
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compositional.core.errors import UserError
from compositional.core.files import read_json

_DEFINING = {
    *("peft_type", "base_model_name_or_path", "r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern"),
    "init_lora_weights",
}
_HARMLESS = {
    # which modules have factors: the file of weights says it, too
    *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "ensure_weight_tying"),
    # how it was trained; the settings of an initialisation count only with that initialisation
    *("lora_dropout", "inference_mode", "eva_config", "corda_config", "loftq_config", "lora_ga_config", "qalora_group_size"),
    # where it is from and how it is loaded; linear layers of torch ignore `fan_in_fan_out`
    *("task_type", "auto_mapping", "peft_version", "revision", "runtime_config", "megatron_core", "fan_in_fan_out"),
}
# These set the first values of the factors and leave the base weights alone. Others change them; PEFT can convert most of these.
_PLAIN_INITIALISATIONS = ("gaussian", "eva", "orthogonal", "mica")
_CONVERTIBLE_INITIALISATIONS = ("pissa", "corda", "olora", "lora_ga")
# Settings that PEFT 0.21 takes as unset when they are empty, and those in which anything but null, false too, is a setting or an
# error. aLoRA is among these: with an empty list of tokens it is a plain LoRA on some layers of PEFT's and not on others.
_UNSET_WHEN_EMPTY = ("modules_to_save", "layer_replication", "target_parameters", "megatron_config")
_UNSET_BY_NULL_ALONE = (
    *("alora_invocation_tokens", "trainable_token_indices", "arrow_config", "kasa_config", "velora_config", "monteclora_config"),
    "use_bdlora",
)


@dataclass(frozen=True)
class AdapterConfig:
    """The settings of a plain LoRA in adapter_config.json."""

    base_model: str
    r: int
    lora_alpha: float
    use_rslora: bool
    rank_pattern: dict[str, int]
    alpha_pattern: dict[str, float]

    def alpha(self, module_path: str) -> float:
        """`lora_alpha`, or the module's own alpha if `alpha_pattern` has one."""
        return next(iter(_values_for(module_path, self.alpha_pattern)), self.lora_alpha)

    def scaling(self, module_path: str, rank: int) -> float:
        """alpha / rank, or alpha / √rank for rsLoRA."""
        alpha = self.alpha(module_path)
        return alpha / math.sqrt(rank) if self.use_rslora else alpha / rank

    def fault(self, ranks: dict[str, int]) -> str | None:
        """Why these settings do not fit modules with factors of the given ranks, by path; None if they do.

        PEFT takes the first pattern that matches a module, but sorts them when it saves. So several values for one are ambiguous.
        """
        for path, rank in ranks.items():
            for name, pattern in (("rank_pattern", self.rank_pattern), ("alpha_pattern", self.alpha_pattern)):
                if len(values := _values_for(path, pattern)) > 1:
                    shown = " and ".join(map(str, values))
                    return f"{name} has several values for {path} ({shown}): leave one pattern that matches it"
            stated = next(iter(_values_for(path, self.rank_pattern)), self.r)
            if stated != rank:
                return f"it states rank {stated} for {path}, whose factors have rank {rank}"
        return None


def plain_config(path: Path) -> AdapterConfig:
    """The settings in a file adapter_config.json, read without heavy imports.

    Raises UserError when it is damaged, and when the adapter is not a plain LoRA.
    """
    config = read_json(path)
    if not isinstance(config, dict) or not {"r", "lora_alpha", "peft_type"} <= config.keys():
        raise UserError(f"{path} is damaged: peft_type, r and lora_alpha are expected in it")
    if reasons := _not_plain(config):
        raise UserError(f"{path}: only plain LoRA adapters can be used, and this one has {'; '.join(reasons)}")
    wrong = [f"{name} is {config.get(name)!r}, {expected} is expected" for name, expected in _wrong_types(config)]
    if wrong:
        raise UserError(f"{path} is damaged: {'; '.join(wrong)}")
    return AdapterConfig(
        base_model=config.get("base_model_name_or_path") or "",
        r=config["r"],
        lora_alpha=config["lora_alpha"],
        use_rslora=bool(config.get("use_rslora")),
        rank_pattern=config.get("rank_pattern") or {},
        alpha_pattern=config.get("alpha_pattern") or {},
    )


def _not_plain(config: dict[str, Any]) -> list[str]:
    """The settings that stand for another arithmetic than a plain LoRA's."""
    if config["peft_type"] != "LORA":
        return [f"peft_type {config['peft_type']}"]
    reasons = []
    initialisation = config.get("init_lora_weights", True)
    if isinstance(initialisation, str) and initialisation.lower() not in _PLAIN_INITIALISATIONS:
        conversion = "; PEFT converts it: save_pretrained(..., path_initial_model_for_weight_conversion=...)"
        remedy = conversion if initialisation.lower().startswith(_CONVERTIBLE_INITIALISATIONS) else ""
        reasons.append(f"init_lora_weights {initialisation} (it changes the base weights{remedy})")
    for name in sorted(config.keys() - _DEFINING - _HARMLESS):
        if not _is_unset(name, config[name]):
            reasons.append(f"{name} {_shortened(config[name])}")
    return reasons


def _is_unset(name: str, value: Any) -> bool:
    if name == "bias":
        return value == "none"
    if value is None or (name in _UNSET_WHEN_EMPTY and value in ([], {})):
        return True
    return value is False and name not in _UNSET_BY_NULL_ALONE


def _wrong_types(config: dict[str, Any]) -> list[tuple[str, str]]:
    """The settings that are read and have another type than PEFT writes, with what is expected."""
    alpha_pattern, rank_pattern = config.get("alpha_pattern") or {}, config.get("rank_pattern") or {}
    modules = config.get("target_modules")
    checks = [
        ("r", _is_rank(config["r"]), "a whole number above 0"),
        ("lora_alpha", _is_number(config["lora_alpha"]), "a number"),
        ("base_model_name_or_path", isinstance(config.get("base_model_name_or_path"), str | None), "a text"),
        ("use_rslora", isinstance(config.get("use_rslora"), bool | None), "true or false"),
        ("init_lora_weights", isinstance(config.get("init_lora_weights"), bool | str | None), "true, false or a text"),
        ("alpha_pattern", _are_by_pattern(alpha_pattern, _is_number), "an object of regular expressions and numbers"),
        ("rank_pattern", _are_by_pattern(rank_pattern, _is_rank), "an object of regular expressions and whole numbers above 0"),
        (
            "target_modules",
            isinstance(modules, str | None) or (isinstance(modules, list) and all(isinstance(one, str) for one in modules)),
            "a text or a list of texts",
        ),
    ]
    return [(name, expected) for name, right, expected in checks if not right]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_rank(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _are_by_pattern(value: Any, is_right: Callable[[Any], bool]) -> bool:
    return isinstance(value, dict) and all(_is_pattern(key) and is_right(number) for key, number in value.items())


def _is_pattern(text: str) -> bool:
    try:
        re.compile(text)
    except (re.error, OverflowError, RecursionError):
        return False
    return True


def _values_for(module_path: str, patterns: dict[str, Any]) -> list[Any]:
    """The values of the patterns that match a module, each once. A pattern is a regular expression for a path or its last parts."""
    return list(dict.fromkeys(value for key, value in patterns.items() if re.match(rf"(?:.*\.)?({key})$", module_path)))


def _shortened(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
