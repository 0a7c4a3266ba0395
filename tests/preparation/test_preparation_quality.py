"""What the quality gate notices, and what it leaves alone; what is kept, and what --drop leaves out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from compositional.core.errors import UserError
from compositional.core.files import read_json
from compositional.data import SPLITS, Locations, find_dataset
from compositional.pocket.examples import SOURCES, draw_examples
from compositional.pocket.lexicon import LANGUAGES
from compositional.pocket.sentences import STYLES, render_all
from compositional.preparation import quality
from compositional.preparation.__main__ import run as run_preparation
from compositional.preparation.quality import FINDINGS, PreparedExample, findings_of, target_findings
from compositional.preparation.sets import read_back
from compositional.preparation.text_models import pocket

ENGLISH = "The children went to the park and played football."
IN_LANGUAGE = {
    "es": "Los niños fueron al parque y jugaron al fútbol.",
    "fr": "Les enfants sont allés au parc et ont joué au football.",
    "de": "Die Kinder gingen in den Park und spielten Fußball.",
}


def found(target: str, source: str = "A source", language: str = "en", rewrites: bool = True) -> list[str]:
    """The findings of one target that was made from a source."""
    return target_findings([PreparedExample("0", "An input.", target, source)], language, rewrites)[0]


# ---- empty


@pytest.mark.parametrize("target", ["", " ", "\n\t\r\n", "\u00a0\u2003"])
def test_a_blank_target_is_empty(target):
    assert found(target) == ["empty"]


@pytest.mark.parametrize("target", [".", "0", " x ", "🎉", "你"])
def test_a_target_of_one_character_is_not_empty(target):
    assert found(target) == []


def test_a_blank_target_of_a_blank_source_is_no_copy():
    assert found(" ", "\n") == ["empty"]


# ---- runaway


@pytest.mark.parametrize(("length", "expected"), [(110, []), (111, ["runaway"])])
def test_a_target_far_longer_than_its_source_is_a_runaway(length, expected):
    target = "".join(chr(ord("a") + number % 26) for number in range(length))
    assert len("Ten chars.") == 10
    assert [name for name in found(target, "Ten chars.") if name not in ("wrong_language", "cut_off")] == expected
    as_published = PreparedExample("0", "Ten chars.", target)
    assert ("runaway" in target_findings([as_published], "en", True)[0]) == bool(expected)
    assert "runaway" not in target_findings([as_published], "en", False)[0]  # a summary or a reply says what it likes
    assert "runaway" not in found(target, "A source that is a bit longer.")


@pytest.mark.parametrize(("times", "expected"), [(5, False), (6, True)])
def test_three_words_that_stand_there_six_times_are_a_runaway(times, expected):
    source = " ".join(f"word{n}" for n in range(100))
    assert ("runaway" in found(" ".join(f"and so on {n}" for n in range(times)), source)) == expected
    assert ("runaway" in found("no " * (times + 2), source, rewrites=False)) == expected
    assert "runaway" not in found(" ".join(f"and so {n}" for n in range(10 * times)), source)
    assert "runaway" not in found("and so on " * times, "and so on " * times)  # the text it was made from repeats itself, too


@pytest.mark.parametrize("character", ["a", "哈", "🎉", "é"])
def test_a_character_twenty_times_in_a_row_is_a_runaway(character):
    source = " ".join(f"word{n}" for n in range(100))
    assert "runaway" in found(f"Well {character * 20} yes", source)
    assert "runaway" not in found(f"Well {character * 19} yes", source)
    assert "runaway" not in found(f"Well {(character * 10 + ' ') * 3}", source)
    assert "runaway" not in found("Well" + " " * 40 + "yes", source)


@pytest.mark.parametrize("row", ["-" * 40, "=" * 40, "0" * 40, "!" * 40, "1000" * 20])
def test_a_row_of_punctuation_or_digits_is_no_loop(row):
    assert "runaway" not in found(f"Well {row} yes", " ".join(f"word{n}" for n in range(100)))


@pytest.mark.parametrize("loop", ["你好", "👨‍👩‍👧", "haha"])
def test_a_few_characters_ten_times_in_a_row_are_a_runaway(loop):
    source = " ".join(f"word{n}" for n in range(100))
    assert "runaway" in found(f"Well {loop * 10} yes", source)
    assert "runaway" not in found(f"Well {loop * 4} yes", source)


# ---- cut off


@pytest.mark.parametrize("end", [".", "!", "?", "…", '."', ".)", "!» "])
def test_a_rewritten_target_without_the_end_of_its_source_is_cut_off(end):
    assert found("She goes home", f"She went home{end}") == ["cut_off"]
    assert found(f"She goes home{end}", f"She went home{end}") == []
    assert found("She goes home", "She went home") == []
    as_published = PreparedExample("0", "She went home.", "She goes home")
    assert target_findings([as_published], "en", True) == [[]]


# ---- wrong language


@pytest.mark.parametrize("language", LANGUAGES)
def test_english_is_the_wrong_language_of_a_translation(language):
    assert found(ENGLISH, language=language) == ["wrong_language"]
    assert found(IN_LANGUAGE[language], language=language) == []
    assert found(IN_LANGUAGE[language], language="en") == ["wrong_language"]
    assert found(ENGLISH, language="en") == []


def test_other_scripts_are_the_wrong_language():
    assert "wrong_language" in found("这是一个关于天气的很长的句子，我们今天去公园玩吧好不好", language="es")


def test_texts_of_fewer_than_20_letters_are_not_judged():
    assert found("Where are the children 1234567890 ?!?! 🎉🎉🎉", language="es") == []  # 19 letters
    assert found("Where were the children", language="es") == ["wrong_language"]  # 20
    assert found("2024-01-02 10:30 " * 3, language="es") == []


@pytest.mark.parametrize(("confidence", "expected"), [(0.1999, ["wrong_language"]), (0.2, [])])
def test_a_language_with_less_than_20_percent_is_wrong(confidence, expected, monkeypatch):
    asked = []

    def confidences(texts: list[str], language: str) -> list[float]:
        asked.append((texts, language))
        return [confidence for _ in texts]

    monkeypatch.setattr(quality, "confidences", confidences)
    assert found(ENGLISH, language="fr") == expected
    assert asked == [([ENGLISH], "fr")]


def test_each_target_has_its_own_findings_however_they_are_mixed():
    targets = [ENGLISH, "Sí.", IN_LANGUAGE["es"], "", ENGLISH, IN_LANGUAGE["de"], "</s>"]
    examples = [PreparedExample(str(n), "An input.", target, "A source") for n, target in enumerate(targets)]
    wrong = ["wrong_language"]
    assert target_findings(examples, "es", True) == [wrong, [], [], ["empty"], wrong, wrong, ["end_marker"]]


def test_good_targets_of_pocket_are_hardly_ever_flagged_and_english_ones_nearly_always_are():
    flagged: Counter[str] = Counter()
    count = english_count = english_flagged = 0
    for source in SOURCES:
        drawn = list(draw_examples(source, "test"))
        english = [render_all(example.meaning, "en") for example in drawn]
        for style in STYLES:
            language = style if style in LANGUAGES else "en"
            sources = ["Another text." * 20 if style == "en" else text for text in english]
            targets = [render_all(example.meaning, style) for example in drawn]
            made = [PreparedExample("0", "An input.", *pair) for pair in zip(targets, sources, strict=True)]
            count += len(made)
            flagged.update(name for names in target_findings(made, language, True) for name in names)
            if style in LANGUAGES:
                left = [PreparedExample("0", "An input.", text, "A source." * 20) for text in english]
                english_count += len(left)
                english_flagged += target_findings(left, language, True).count(["wrong_language"])
    assert count == 6000
    assert flagged.total() <= count // 1000, flagged
    assert english_flagged >= 0.95 * english_count


# ---- copies and markers


@pytest.mark.parametrize("target", ["Call mum now!", "call MUM now!", "  Call \n mum\tnow! "])
def test_a_target_that_is_its_source_but_for_case_and_spacing_is_a_copy(target):
    assert found(target, "Call mum now!") == ["copy"]
    assert target_findings([PreparedExample("0", "Call mum now!", target)], "en", True) == [["copy"]]


@pytest.mark.parametrize("target", ["Call mum now.", "Call mumnow!", "Call mum right now!", "Call mum now! Call mum now!"])
def test_a_target_that_differs_from_its_source_is_no_copy(target):
    assert found(target, "Call mum now!") == []


def test_a_copy_of_the_input_is_none_where_targets_are_made_from_another_text():
    assert target_findings([PreparedExample("0", "Call mum!", "Call mum!", "Telephone her.")], "en", True) == [[]]


@pytest.mark.parametrize(
    "marker", ["###", "### END", "<s>", "</s>", "<pad>", "<unk>", "<|im_end|>", "<|endoftext|>", "<eos>", "<bos>"]
)
def test_a_marker_in_a_target_is_noticed_unless_the_source_has_one(marker):
    assert found(f"Fine.{marker}") == ["end_marker"]
    assert found(f"Fine. {marker} It") == ["end_marker"]
    assert found(f"Fine. {marker}", f"Good. {marker}") == []


@pytest.mark.parametrize("target", ["#1 and ##2", "<b>x</b>", "a < s > b", "<3 | >", "s> <s", "<| |>", "END", "x <end> y"])
def test_what_is_no_marker_is_left_alone(target):
    assert found(target) == []


# ---- later splits


def later(train: str = "", validation: str = "", test: str = "") -> dict[str, list[tuple[str, ...]]]:
    """Findings of splits of examples written as input:target."""
    written = {"train": train, "validation": validation, "test": test}
    examples = {split: [PreparedExample("0", *one.split(":"), "src") for one in text.split()] for split, text in written.items()}
    return findings_of(examples, "en", True)


BOTH = ("input_in_later_split", "example_in_later_split")


@pytest.mark.parametrize(
    ("splits", "expected"),
    [
        ({"train": "a:1 b:2", "validation": "a:1"}, {"train": [BOTH, ()], "validation": [()]}),
        ({"train": "a:1 b:2", "test": "b:2"}, {"train": [(), BOTH], "test": [()]}),
        ({"validation": "a:1", "test": "a:1"}, {"validation": [BOTH], "test": [()]}),
        ({"train": "a:1", "validation": "a:1", "test": "a:1"}, {"train": [BOTH], "validation": [BOTH], "test": [()]}),
        ({"train": "a:1", "validation": "a:2"}, {"train": [BOTH[:1]], "validation": [()]}),
        ({"train": "a:1 a:2", "validation": "a:3", "test": "a:1"}, {"train": [BOTH, BOTH[:1]], "validation": [BOTH[:1]]}),
        ({"train": "a:1 a:1", "validation": "b:1 b:1", "test": "c:1 c:1"}, {"train": [(), ()], "test": [(), ()]}),
    ],
)
def test_what_stands_in_a_later_split_too_is_noticed_in_the_earlier_one(splits, expected):
    findings = later(**splits)
    assert {split: findings[split] for split in expected} == expected
    assert not any(findings["test"])


# ---- what the command does with them


@dataclass
class Scripted:
    """A text model whose every target is what a test says."""

    rewritten: Callable[[str], str]
    batch_size: int = 100

    def identity(self) -> dict[str, Any]:
        return {"model": "scripted"}

    def check(self) -> None: ...

    def start(self) -> None: ...

    def stop(self) -> None: ...

    def loaded(self) -> dict[str, Any]:
        return {}

    def rewrite(self, texts: list[str]) -> list[str]:
        return list(map(self.rewritten, texts))


@pytest.fixture
def make(workspace, monkeypatch) -> Callable[..., tuple[dict[str, list[PreparedExample]], dict[str, Any]]]:
    """Prepare pocket_sentences_es with targets as a function makes them; returns the saved examples and their record."""

    def run(rewritten: Callable[[str], str], *flags: str) -> tuple[dict[str, list[PreparedExample]], dict[str, Any]]:
        monkeypatch.setattr("compositional.preparation.plan.find_text_model", lambda *_: Scripted(rewritten))
        set_flags = ["--only", "pocket_sentences_es", "--max_train_examples", "50"]
        run_preparation([*set_flags, *flags, "--overwrite", "--workspace", str(workspace.root)])
        folder = workspace.prepared_data("pocket_sentences_es")
        return read_back(folder), read_json(folder / "preparation.json")

    return run


def spoilt(text: str) -> str:
    """Spanish, but nothing for texts about beaches, the English text for those about gardens, and a marker in questions."""
    if "beach" in text:
        return ""
    if "garden" in text:
        return text
    spanish = pocket.PocketGrammar("es").rewrite([text])[0]
    return spanish + " ### END" if "?" in text else spanish


def test_examples_with_findings_are_kept_and_reported(make):
    splits, record = make(spoilt)
    assert {split: len(examples) for split, examples in splits.items()} == {"train": 50, "validation": 250, "test": 250}
    for split, examples in splits.items():
        assert [example.target for example in examples] == [spoilt(example.source) for example in examples]
        for name, is_expected in {
            "empty": lambda example: "beach" in example.source,
            "copy": lambda example: "garden" in example.source and "beach" not in example.source,
            "end_marker": lambda example: "###" in example.target,
        }.items():
            assert [name in example.findings for example in examples] == list(map(is_expected, examples))
        assert record["findings"][split] == dict(Counter(name for example in examples for name in example.findings))
        assert record["counts"][split]["dropped"] == {}
    assert set(record["findings"]["test"]) == {"empty", "wrong_language", "copy", "end_marker", "cut_off"}


@pytest.mark.parametrize(
    ("drop", "counted"), [("copy", {"copy"}), ("copy empty", {"copy", "empty"}), ("copy wrong_language", {"wrong_language"})]
)
def test_what_is_dropped_is_left_out_and_counted_under_the_first_finding_that_is_dropped(drop, counted, make):
    whole, before = make(spoilt)
    splits, record = make(spoilt, "--drop", *drop.split())
    names = [name for name in FINDINGS if name in drop.split()]
    for split, examples in splits.items():
        assert examples == [example for example in whole[split] if not set(names) & set(example.findings)]
        reasons = [[name for name in names if name in example.findings] for example in whole[split]]
        first = Counter(found[0] for found in reasons if found)
        assert record["counts"][split]["dropped"] == dict(first)
        assert record["counts"][split]["kept"] == len(examples) == len(whole[split]) - first.total()
    assert set(record["counts"]["test"]["dropped"]) == counted
    assert record["findings"] == before["findings"]  # of all that were looked at


@pytest.mark.parametrize("split", SPLITS)
def test_dropping_a_whole_split_is_a_mistake_that_names_set_and_split(split, make, workspace):
    reading = find_dataset("pocket_sentences_es", Locations(Path("nowhere"), None)).read_source(split)
    texts = {example.reference for example in reading.examples}
    with pytest.raises(UserError) as caught:
        make(lambda text: "" if text in texts else "Algo.", "--drop", "copy", "empty")
    assert list(caught.value.mistakes) == [f"pocket_sentences_es: --drop copy empty leaves no {split} example"]
    assert not workspace.prepared_data("pocket_sentences_es").exists()


def test_a_finding_that_there_is_not_is_a_mistake_that_names_the_nearest(make, workspace):
    with pytest.raises(UserError) as caught:
        make(spoilt, "--drop", "copies", "empty", "run_away")
    first, second = caught.value.mistakes
    assert first.startswith("--drop copies: ")
    assert "copy" in first
    assert second.startswith("--drop run_away: ")
    assert "runaway" in second
    assert not workspace.root.exists()


# ---- real text


def real(name: str, split: str, shared_data: Path) -> list[PreparedExample]:
    read = find_dataset(name, Locations(Path("nowhere"), shared_data)).read(split)
    return [PreparedExample(example.id, example.input, example.reference) for example in read]


def test_real_summaries_are_hardly_ever_flagged(shared_data):
    findings = target_findings(real("dialogsum", "validation", shared_data), "en", False)
    assert len(findings) == 500
    assert sum(map(bool, findings)) <= 2


@pytest.mark.parametrize("tone", ["casual", "professional", "witty", "paraphrase"])
def test_real_sentences_in_a_tone_are_hardly_ever_flagged(tone, shared_data):
    splits = {split: real(f"llm_toys_{tone}", split, shared_data) for split in SPLITS}
    findings = [names for some in findings_of(splits, "en", True).values() for names in some]
    assert len(findings) == 860
    assert sum(map(bool, findings)) <= 4


def test_findings_stand_in_the_order_of_their_table():
    """The first of an example's findings, under which it is counted when dropped, is the first of the table."""
    assert found(f"{'a' * 20} ### {ENGLISH}" * 6, "x", language="es") == ["runaway", "wrong_language", "end_marker"]
    assert [name for name in FINDINGS if name in BOTH] == list(BOTH)
