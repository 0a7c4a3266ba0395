"""The rows of the ablation tables: LC and LC++ with one setting after another."""

from __future__ import annotations

from dataclasses import dataclass, replace

from src.calibration import LC, LC_PLUS_PLUS
from src.sweep.methods import LEARNED, MERGED, OWN_METHODS, PAPER_METHODS, Method
from src.sweep.profiles import Profile

_BY_NAME = {method.name: method for method in (*PAPER_METHODS, *OWN_METHODS)}
_NAMES = {"LC": LC, "LC++": LC_PLUS_PLUS}
_PAPERS_RANK = 4
_RANKS = (1, 2, _PAPERS_RANK, 8, 16, 32)
_LAYERS = {1: "shared by all layers", 2: "one per half of the layers", 0: "one per layer"}
# Label and flags, by a part of the experiments' names.
_MERGES = {
    "mean": ("the mean", "--lora_merge_strategy linear"),
    "sum": ("the sum", "--lora_merge_strategy linear --lora_merge_weights 1 1"),
    "peft_linear": ("PEFT's linear merge", "--lora_merge_strategy peft_linear"),
    "ties": ("TIES", "--lora_merge_strategy ties"),
    "dare": ("DARE", "--lora_merge_strategy dare"),
    "slerp": ("slerp", "--lora_merge_strategy slerp"),
    "knots": ("KnOTS", "--lora_merge_strategy knots"),
    "svc": ("singular value calibration", "--lora_merge_strategy svc --lora_merge_weights 1 1"),
}


@dataclass(frozen=True)
class Ablation:
    """A table of its own. Its rows are compared with `reference`; `axis` says what their `value` is, where they have one."""

    title: str
    methods: list[Method]
    reference: str
    axis: str = ""


def ablations(profile: Profile) -> dict[str, Ablation]:
    """All ablation tables, by what `--table` calls them."""
    most = f"LC++, {profile.calibration_examples[-1]:,} examples"
    return {
        "calibration_examples": Ablation("Number of calibration examples", _examples(profile), most, "calibration examples"),
        "calibration_rank": Ablation("Rank of LC++", _ranks(), f"LC++, rank {_PAPERS_RANK}", "rank of LC++"),
        "calibration_layers": Ablation("Sharing a calibration across layers", _layers(), f"LC++, {_LAYERS[1]}"),
        "calibrated_merge": Ablation("The merge under the calibration", _merges(), "LC++ of the mean"),
        "calibration_without_loras": Ablation("Calibration without LoRAs", _without_loras(), "LC++, with LoRAs"),
    }


def _calibrated(label: str, short: str, part: str, setting: str, merge: str = _MERGES["mean"][1], value: int = 0) -> Method:
    """A row of `short` (LC or LC++); an empty `part` is the main table's own experiment."""
    calibration = _NAMES[short]
    usual = _BY_NAME[f"{calibration}_merge"]
    if not part:
        return replace(usual, label=label, series=short, value=value)
    flags = f"--for_each_component {merge} --calibrate {calibration} {LEARNED}"
    name = f"{calibration}_{part}_merge"
    return Method(label, name, flags, learns=True, like=usual.name, setting=setting, series=short, value=value)


def _examples(profile: Profile) -> list[Method]:
    """Fewer examples than the main table's are seen more than once, as many in all; more are seen once each."""
    rows = [replace(_BY_NAME["exact_linear_merge"], label="the mean, not calibrated")]
    for short in _NAMES:
        for count in profile.calibration_examples:
            epochs = max(1.0, profile.usual_calibration_examples / count)
            setting = f"--num_examples_merge {count} --calibration_epochs {epochs:g}"
            rows.append(_calibrated(f"{short}, {count:,} examples", short, f"{count}_examples", setting, value=count))
    return rows


def _ranks() -> list[Method]:
    parts = {rank: "" if rank == _PAPERS_RANK else f"rank_{rank}" for rank in _RANKS}
    return [
        _calibrated(f"LC++, rank {rank}", "LC++", part, f"--calibration_rank {rank}", value=rank) for rank, part in parts.items()
    ]


def _layers() -> list[Method]:
    parts = {1: "", 0: "each_layer"}
    return [
        _calibrated(f"{short}, {label}", short, parts.get(groups, f"{groups}_groups"), f"--calibration_layer_groups {groups}")
        for short in _NAMES
        for groups, label in _LAYERS.items()
    ]


def _merges() -> list[Method]:
    rows = []
    for part, (label, flags) in _MERGES.items():
        rows.append(Method(label, f"uncalibrated_{part}_merge", f"{flags} {MERGED}"))
        rows += [_calibrated(f"{short} of {label}", short, "" if part == "mean" else f"of_{part}", "", flags) for short in _NAMES]
    return rows


def _without_loras() -> list[Method]:
    rows = [replace(_BY_NAME["zero_shot"], label="the base model"), replace(_BY_NAME["exact_linear_merge"], label="the mean")]
    for short in _NAMES:
        rows.append(_calibrated(f"{short}, with LoRAs", short, "", ""))
        nothing = f"{_MERGES['mean'][1]} --lora_merge_weights 0 0"
        rows.append(_calibrated(f"{short}, without LoRAs", short, "without_loras", "", nothing))
    return rows
