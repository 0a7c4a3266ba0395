"""A call's sets, one after the other: read, rewritten, looked at, saved, and described by a card."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compositional.core.errors import UserError
from compositional.core.files import hash_of_files, hash_of_json, lies_in, remove, write_text
from compositional.core.machine import environment
from compositional.core.recorded import changes, read_recorded, write_record
from compositional.data import PREPARATION_RECORD, SPLITS
from compositional.preparation import quality
from compositional.preparation.card import card, encoder_of, lengths_under
from compositional.preparation.plan import PreparationPlan, SetPlan
from compositional.preparation.quality import PreparedExample, findings_of
from compositional.preparation.rewriting import forget_rewritten, has_all, rewritten_texts, settings_of
from compositional.preparation.sets import SourceExamples, damaged_parts, read_back, read_sources, record_of, save_set
from compositional.preparation.text_models import text_model_files

if TYPE_CHECKING:
    from compositional.models.chat import ChatEncoder

logger = logging.getLogger(__name__)

LENGTHS_FILE = "lengths.json"
CARD_FILE = "card.md"
UP_TO_DATE = "up to date"


@dataclass(frozen=True)
class SetToMake:
    """A set, its source's examples, and what it is made from: the folder is up to date while that stays the same."""

    plan: SetPlan
    source: SourceExamples
    made_from: dict[str, Any]

    @property
    def name(self) -> str:
        """The set's name."""
        return self.plan.name

    @property
    def folder(self) -> Path:
        """The folder that is made."""
        return self.plan.dataset.folder

    def state(self) -> str:
        """Whether the folder is missing, up to date, stale, or damaged, and then why."""
        record = record_of(self.folder)
        if record is None:
            return "missing"
        changed = changes(record["made_from"], self.made_from, value_if_left_out=lambda key: None)
        if changed:
            return f"stale: {', '.join(changed)} changed"
        damaged = damaged_parts(self.folder, record)
        return f"damaged: {', '.join(damaged)}" if damaged else UP_TO_DATE


def sets_to_make(plan: PreparationPlan) -> list[SetToMake]:
    """The plan's sets with their sources; raises UserError with all sources that are missing or broken."""
    arguments = plan.arguments
    sources = read_sources((one.dataset for one in plan.sets), arguments.max_train_examples, arguments.data_seed)
    return [SetToMake(one, sources[one.name], _made_from(one, sources[one.name], arguments.drop)) for one in plan.sets]


def prepare(plan: PreparationPlan) -> None:
    """Make what is missing or stale of the plan's sets, and describe them; raises UserError for what can't be made."""
    sets = sets_to_make(plan)
    _check_folders(sets, plan)
    encoders = _encoders(sets, plan.arguments.length_models)
    stale = [one.name for one in sets if plan.arguments.overwrite or one.state() != UP_TO_DATE]
    _check_text_models(one for one in sets if one.name in stale and _has_to_rewrite(plan, one))
    if plan.arguments.overwrite:
        _throw_away(plan, sets)
    made = 0
    for one, following in zip(sets, [*sets[1:], None], strict=True):
        splits = None
        with plan.workspace.locked(data_set=one.name):
            if (state := one.state()) != UP_TO_DATE:
                made += 1
                logger.info("%d of %d: %s (%s)", made, max(made, len(stale)), one.name, state)
                splits = _make(plan, one)
            _describe(one, splits, {model: encoders[model] for model in one.plan.length_models})
        if one.plan.text_model and not (following and following.plan.text_model is one.plan.text_model):
            one.plan.text_model.stop()


def _throw_away(plan: PreparationPlan, sets: list[SetToMake]) -> None:
    """Remove what was made of the sets, all at once, so that a run that is interrupted goes on without --overwrite."""
    for one in sets:
        with plan.workspace.locked(data_set=one.name):
            remove(one.folder)
            forget_rewritten(plan.rewritten(one.name))


def _encoders(sets: list[SetToMake], named: list[str]) -> dict[str, ChatEncoder | str]:
    """The models' encoders that lengths are measured with, or why they can't be had; of models that the user named, a UserError."""
    encoders = {model: encoder_of(model) for model in sorted({model for one in sets for model in one.plan.length_models})}
    missing = {model: reason for model, reason in encoders.items() if isinstance(reason, str)}
    if mistakes := [f"--length_models {model}: {reason}" for model, reason in missing.items() if model in named]:
        raise UserError(*mistakes)
    for model, encoder in encoders.items():
        if isinstance(encoder, str):
            logger.warning("lengths in tokens under %s won't be in the cards: %s", model, encoder)
    return encoders


def _describe(one: SetToMake, splits: dict[str, list[PreparedExample]] | None, encoders: dict[str, ChatEncoder | str]) -> None:
    """Write the set's lengths in tokens and its card where they are missing, and show the set in a line."""
    if splits or not _is_described(one, encoders):
        measured = {} if splits else _measured_lengths(one)
        splits = splits or read_back(one.folder)
        lengths = {
            model: encoder if isinstance(encoder, str) else lengths_under(encoder, splits, one.plan.dataset.tasks)
            for model, encoder in encoders.items()
            if model not in measured
        }
        lengths = measured | lengths
        write_text(one.folder / CARD_FILE, card(one.plan.dataset, splits, record_of(one.folder), lengths))
        hash_of_card = hash_of_files([one.folder / CARD_FILE])
        write_record(one.folder / LENGTHS_FILE, {"lengths": lengths, "sha256_of_card": hash_of_card})
    logger.info("%s", _summary(one))


def _made_from(plan: SetPlan, source: SourceExamples, drop: list[str]) -> dict[str, Any]:
    text_model = None
    if plan.text_model:
        code = text_model_files()[plan.text_model_name].REVISION
        text_model = {"name": plan.text_model_name, "code": code} | plan.text_model.identity()
    return {
        "source": source.hash,
        "text_model": text_model,
        "drop": sorted(drop),
        "code": quality.REVISION,
    }


def _check_folders(sets: list[SetToMake], plan: PreparationPlan) -> None:
    """Raise UserError for folders that somebody else made, which only --overwrite replaces, and for what is no folder.

    So it does for a folder in which something lies that is read.
    """
    mistakes, overwrite = [], plan.arguments.overwrite
    flags = ("raw_data_dir", "translator_model", "translator_adapter", "tone_rewriter_model", "tone_rewriter_adapter")
    inputs = {f"--{flag} {value}": Path(value) for flag in flags if (value := getattr(plan.arguments, flag))}
    inputs |= {f"@{path}": path for path in plan.files_of_flags}
    for one in sets:
        folder = one.folder
        mistakes += [
            f"{what} lies in {folder}, which this command replaces: move it"
            for what, path in inputs.items()
            if path.exists() and lies_in(path, folder)
        ]
        if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
            mistakes.append(f"{folder} is not a folder: move it")
        elif folder.exists() and not (folder / PREPARATION_RECORD).is_file() and not overwrite:
            mistakes.append(f"{folder} exists and was not made by the preparation: move it, or --overwrite it")
    if mistakes:
        raise UserError(*mistakes)


def _has_to_rewrite(plan: PreparationPlan, one: SetToMake) -> bool:
    """Whether the set's text model is needed: without a network, --drop can be changed all the same."""
    if not one.plan.text_model:
        return False
    texts = {example.reference for some in one.source.splits.values() for example in some}
    return plan.arguments.overwrite or not has_all(plan.rewritten(one.name), texts, one.made_from["text_model"])


def _check_text_models(sets: Iterable[SetToMake]) -> None:
    """Before anything long begins: can the text models be had?"""
    mistakes: list[str] = []
    for one in sets:
        try:
            one.plan.text_model.check()
        except UserError as error:
            mistakes += error.mistakes
    if mistakes:
        raise UserError(*dict.fromkeys(mistakes))


def _make(plan: PreparationPlan, one: SetToMake) -> dict[str, list[PreparedExample]]:
    """Save the set; returns its examples."""
    examples = _examples(plan, one)
    found = findings_of(examples, one.plan.dataset.language, one.plan.dataset.tasks[-1].role == "auxiliary")
    marked = {
        split: [replace(example, findings=findings) for example, findings in zip(some, found[split], strict=True)]
        for split, some in examples.items()
    }
    drop = set(plan.arguments.drop)
    kept = {split: [example for example in some if not drop.intersection(example.findings)] for split, some in marked.items()}
    empty = [split for split, some in kept.items() if not some]
    if empty:
        raise UserError(f"{one.name}: --drop {' '.join(sorted(drop))} leaves no {empty[0]} example")
    made_by = {"rewritten_by": settings_of(plan.rewritten(one.name)).get("made_by", [])} if one.plan.text_model else {}
    save_set(one.folder, kept, _record(one, marked, kept, drop) | made_by)
    return kept


def _examples(plan: PreparationPlan, one: SetToMake) -> dict[str, list[PreparedExample]]:
    """The source's examples with the targets of the set."""
    splits = one.source.splits
    if not one.plan.text_model:
        return {split: [PreparedExample(e.id, e.input, e.reference) for e in some] for split, some in splits.items()}
    path = plan.rewritten(one.name)
    texts = [example.reference for some in splits.values() for example in some]
    description = f"{one.name}: {one.plan.text_model_name}"
    targets = rewritten_texts(path, texts, one.plan.text_model, one.made_from["text_model"], plan.arguments.batch_size, description)
    return {
        split: [PreparedExample(e.id, e.input, targets[e.reference], e.reference) for e in some] for split, some in splits.items()
    }


def _record(
    one: SetToMake, marked: dict[str, list[PreparedExample]], kept: dict[str, list[PreparedExample]], drop: set[str]
) -> dict[str, Any]:
    """What is written down beside the set. An example is counted under the first of its findings that is dropped."""
    counts = {}
    for split in SPLITS:
        dropped = Counter(
            next(finding for finding in example.findings if finding in drop)
            for example in marked[split]
            if drop.intersection(example.findings)
        )
        counts[split] = {"kept": len(kept[split]), "left_out": one.source.left_out[split], "dropped": dict(dropped)}
    rows = {split: [[e.id, e.input, e.target, e.source] for e in some] for split, some in kept.items()}
    return {
        "fingerprint": hash_of_json({"made_from": one.made_from, "content": rows}),
        "made_from": one.made_from,
        "source": one.plan.dataset.origin(),
        "counts": counts,
        "findings": {split: dict(Counter(f for e in some for f in e.findings)) for split, some in marked.items()},
        "environment": environment(),
    }


def _is_described(one: SetToMake, wanted: dict[str, Any]) -> bool:
    """Whether the card is there as it was written, with the lengths of every wanted model that can be had."""
    measured, path = _measured_lengths(one), one.folder / CARD_FILE
    have_lengths = all(model in measured or isinstance(encoder, str) for model, encoder in wanted.items())
    return have_lengths and path.is_file() and hash_of_files([path]) == _description(one).get("sha256_of_card")


def _measured_lengths(one: SetToMake) -> dict[str, dict[str, Any]]:
    """The lengths that stand beside the set, by model."""
    lengths = _description(one).get("lengths", {})
    return {model: measured for model, measured in lengths.items() if isinstance(measured, dict)}


def _description(one: SetToMake) -> dict[str, Any]:
    """The record of the set's lengths and card; empty if it is missing or damaged, since both are made again from the set."""
    try:
        return read_recorded(one.folder / LENGTHS_FILE, lengths=dict, sha256_of_card=str)
    except UserError:
        return {}


def _summary(one: SetToMake) -> str:
    record = record_of(one.folder)
    kept = " + ".join(f"{count['kept']:,}" for count in record["counts"].values())
    total = sum((Counter(counts) for counts in record["findings"].values()), Counter())
    findings = ", ".join(f"{count:,} {name}" for name, count in total.items()) or "none"
    return f"{one.name}: {kept} examples; findings: {findings} ({one.folder / CARD_FILE})"
