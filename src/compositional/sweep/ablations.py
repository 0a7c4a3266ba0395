"""The rows of the ablation tables: LC and LC++ with one setting after another."""

from __future__ import annotations

from dataclasses import dataclass, replace

from compositional.calibration import LC, LC_PLUS_PLUS
from compositional.sweep.benchmarks import Profile
from compositional.sweep.rows import OWN_ROWS, PAPER_ROWS, TableRow
from compositional.sweep.steps import Kind

_BY_NAME = {row.name: row for row in (*PAPER_ROWS, *OWN_ROWS)}
_NAMES = {"LC": LC, "LC++": LC_PLUS_PLUS}
_PAPERS_RANK = 4
_RANKS = (1, 2, _PAPERS_RANK, 8, 16, 32)
_LAYERS = {1: "shared by all layers", 2: "one per half of the layers", 0: "one per layer"}
# Labels of merges that are rows of the main table or of our own, by their names.
_MERGES = {
    "exact_linear": "the mean",
    "exact_sum": "the sum",
    "linear": "PEFT's linear merge",
    "exact_ties": "TIES",
    "exact_dare": "DARE",
    "slerp": "slerp",
    "knots": "KnOTS",
    "svc": "singular value calibration",
}
_MEAN = "exact_linear"
TWO_PASSES = _BY_NAME["multi_step"].label
_SIZE_FLAGS = ("--num_examples_merge", "--calibration_epochs", "--batch_size", "--gradient_accumulation_steps", "--trainer")
_MERGE_FLAGS = ("--lora_merge_strategy", "--lora_merge_weights", "--lora_merge_options")


@dataclass(frozen=True)
class Ablation:
    """A table of its own, whose rows differ in the flags that it `varies`.

    Its rows are compared with `reference`; `axis` says what their `value` is, where they have one.
    """

    title: str
    rows: list[TableRow]
    reference: str
    varies: tuple[str, ...]
    axis: str = ""


def ablations(profile: Profile) -> dict[str, Ablation]:
    """All ablation tables, by what `--table` calls them."""
    return {
        "calibration_examples": Ablation(
            "Number of calibration examples",
            _examples(profile),
            f"LC++, {profile.usual_calibration_examples:,} examples",
            _SIZE_FLAGS,
            axis="calibration examples",
        ),
        "calibration_rank": Ablation("Rank of LC++", _ranks(), f"LC++, rank {_PAPERS_RANK}", ("--calibration_rank",), axis="rank"),
        "calibration_layers": Ablation(
            "Sharing a calibration across layers", _layers(), f"LC++, {_LAYERS[1]}", ("--calibration_layer_groups",)
        ),
        "calibrated_merge": Ablation("The merge under the calibration", _merges(), "LC++ of the mean", _MERGE_FLAGS),
        "calibration_without_loras": Ablation("Calibration without LoRAs", _without_loras(), "LC++, with LoRAs", _MERGE_FLAGS),
        "calibration_targets": Ablation(
            "Composed targets or the adapters' own two-step answers",
            _targets(profile),
            TWO_PASSES,
            (*_SIZE_FLAGS, "--calibration_targets"),
            axis="inputs",
        ),
    }


def _merge(name: str, label: str) -> TableRow:
    return replace(_BY_NAME[f"{name}_merge"], label=label)


def _calibrated(label: str, short: str, part: str, setting: str = "", merge: str = _MEAN, value: int = 0) -> TableRow:
    """A row of `short` (LC or LC++), a `part` of whose name tells it apart; without one, it is the main table's experiment."""
    usual = _BY_NAME[f"{_NAMES[short]}_merge"]
    if not part:
        return replace(usual, label=label, series=short, value=value)
    flags = f"{_merge(merge, label).flags} --calibrate {_NAMES[short]} --for_each_component --merge_datasets {{composed}}"
    name = f"{_NAMES[short]}_{part}_merge"
    return TableRow(label, name, flags, kind=Kind.LEARN, learns=True, like=usual.name, setting=setting, series=short, value=value)


def _examples(profile: Profile) -> list[TableRow]:
    """Fewer examples than the main table's are seen again and again, in as many updates; more are seen once each."""
    rows = [_merge(_MEAN, "the mean, not calibrated")]
    for short in _NAMES:
        for count in profile.calibration_examples:
            part, setting = _budget(count, profile)
            rows.append(_calibrated(f"{short}, {count:,} examples", short, part, setting, value=count))
    return rows


def _budget(count: int, profile: Profile) -> tuple[str, str]:
    """The part of a row's name and the flags for a number of examples; the main table's number has no part."""
    usual = profile.usual_calibration_examples
    setting = f"--num_examples_merge {count}" + (f" --trainer max_steps={profile.usual_updates}" if count < usual else "")
    return "" if count == usual else f"{count}_examples", setting


def _targets(profile: Profile) -> list[TableRow]:
    """LC++ from composed targets, and from the adapters' two-step answers to the same inputs, beside those two steps."""
    rows, own = [_BY_NAME["multi_step"]], _BY_NAME["own_targets_pp_merge"]
    for count in profile.calibration_examples:
        part, setting = _budget(count, profile)
        composed = _calibrated(f"LC++, composed targets, {count:,} inputs", "LC++", part, setting, value=count)
        rows.append(replace(composed, series="composed targets"))
        answered = replace(own, label=f"LC++, multi-step targets, {count:,} inputs", series="multi-step targets", value=count)
        if part:
            answered = replace(answered, name=f"own_targets_pp_{part}_merge", like=own.name, setting=setting)
        rows.append(answered)
    return rows


def _ranks() -> list[TableRow]:
    parts = {rank: "" if rank == _PAPERS_RANK else f"rank_{rank}" for rank in _RANKS}
    return [
        _calibrated(f"LC++, rank {rank}", "LC++", part, f"--calibration_rank {rank}", value=rank) for rank, part in parts.items()
    ]


def _layers() -> list[TableRow]:
    parts = {1: "", 0: "each_layer"}
    return [
        _calibrated(f"{short}, {label}", short, parts.get(groups, f"{groups}_groups"), f"--calibration_layer_groups {groups}")
        for short in _NAMES
        for groups, label in _LAYERS.items()
    ]


def _merges() -> list[TableRow]:
    rows = []
    for name, label in _MERGES.items():
        rows.append(_merge(name, label))
        part = "" if name == _MEAN else f"of_{name}"
        rows += [_calibrated(f"{short} of {label}", short, part, merge=name) for short in _NAMES]
    return rows


def _without_loras() -> list[TableRow]:
    rows = [replace(_BY_NAME["zero_shot"], label="the base model"), _merge(_MEAN, "the mean")]
    for short in _NAMES:
        rows.append(_calibrated(f"{short}, with LoRAs", short, ""))
        rows.append(_calibrated(f"{short}, without LoRAs", short, "without_loras", "--lora_merge_weights 0 0"))
    return rows
