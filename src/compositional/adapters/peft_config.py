"""What an adapter's folder may hold: a plain LoRA, whose modules compute W x + s B A x, as PEFT 0.21 describes it.

adapter_config.json has dozens of settings. Those in `_DEFINING` are read, and those in `_HARMLESS` do not change what a stored
adapter computes. Every other setting must be unset (false, null, empty or "none"), because it stands for another arithmetic: DoRA,
aLoRA, KaSA, block-diagonal, routed or fully trained modules, and whatever a later PEFT brings. Such an adapter is refused by the
setting's name. So is an initialisation that changes the base weights, such as PiSSA's: its factors fit the changed weights only.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compositional.core.errors import UserError
from compositional.core.files import read_json

_DEFINING = {"peft_type", "base_model_name_or_path", "r", "lora_alpha", "use_rslora", "alpha_pattern", "init_lora_weights"}
_HARMLESS = {
    # which modules have factors, and of which rank: the file of weights says it, too
    *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "rank_pattern", "ensure_weight_tying"),
    # how it was trained; the settings of an initialisation count only with that initialisation
    *("lora_dropout", "inference_mode", "eva_config", "corda_config", "loftq_config", "lora_ga_config", "qalora_group_size"),
    # where it is from and how it is loaded; linear layers of torch ignore `fan_in_fan_out`
    *("task_type", "auto_mapping", "peft_version", "revision", "runtime_config", "megatron_core", "fan_in_fan_out"),
}
# These set the first values of the factors and leave the base weights alone. Others change them; PEFT can convert most of these.
_PLAIN_INITIALISATIONS = ("gaussian", "eva", "orthogonal", "mica")
_CONVERTIBLE_INITIALISATIONS = ("pissa", "corda", "olora", "lora_ga")
_UNSET = (None, False, "none")


@dataclass(frozen=True)
class AdapterConfig:
    """The settings of a plain LoRA in adapter_config.json."""

    base_model: str
    lora_alpha: float
    use_rslora: bool
    alpha_pattern: dict[str, float]

    def scaling(self, module_path: str, rank: int) -> float:
        """alpha / rank, or alpha / √rank for rsLoRA, with the module's own alpha if `alpha_pattern` has one."""
        alpha = next((value for key, value in self.alpha_pattern.items() if _matches(key, module_path)), self.lora_alpha)
        return alpha / math.sqrt(rank) if self.use_rslora else alpha / rank


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
        lora_alpha=config["lora_alpha"],
        use_rslora=bool(config.get("use_rslora")),
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
        value = config[name]
        if not (value in _UNSET or value in ([], {}, "")):
            reasons.append(f"{name} {_shortened(value)}")
    return reasons


def _wrong_types(config: dict[str, Any]) -> list[tuple[str, str]]:
    """The settings that are read and have another type than PEFT writes, with what is expected."""
    alpha_pattern, rank_pattern = config.get("alpha_pattern") or {}, config.get("rank_pattern") or {}
    modules = config.get("target_modules") or []
    checks = [
        ("r", _is_number(config["r"]) and config["r"] > 0, "a number above 0"),
        ("lora_alpha", _is_number(config["lora_alpha"]), "a number"),
        ("base_model_name_or_path", isinstance(config.get("base_model_name_or_path"), str | None), "a text"),
        ("use_rslora", isinstance(config.get("use_rslora"), bool | None), "true or false"),
        ("alpha_pattern", _are_numbers_by_pattern(alpha_pattern), "an object of regular expressions and numbers"),
        ("rank_pattern", _are_numbers_by_pattern(rank_pattern), "an object of regular expressions and numbers"),
        (
            "target_modules",
            isinstance(modules, str) or (isinstance(modules, list) and all(isinstance(one, str) for one in modules)),
            "a text or a list of texts",
        ),
    ]
    return [(name, expected) for name, right, expected in checks if not right]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _are_numbers_by_pattern(value: Any) -> bool:
    return isinstance(value, dict) and all(_is_pattern(key) and _is_number(number) for key, number in value.items())


def _is_pattern(text: str) -> bool:
    try:
        re.compile(text)
    except re.error:
        return False
    return True


def _matches(pattern: str, module_path: str) -> bool:
    """PEFT's rule: a pattern is a regular expression for a path or for its last parts."""
    return re.match(rf"(?:.*\.)?({pattern})$", module_path) is not None


def _shortened(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
