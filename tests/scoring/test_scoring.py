"""Scores by hand, against their libraries, and in every script."""

from __future__ import annotations

import math
from dataclasses import asdict, replace

import evaluate
import pytest
from rouge_score import rouge_scorer
from sacrebleu.metrics import CHRF

from compositional.core.files import read_json_lines
from compositional.data import name_of_input
from compositional.prediction import Prediction
from compositional.scoring import INTERVALS
from compositional.scoring.bootstrap import bootstrap_interval
from compositional.scoring.intervals import Interval
from compositional.scoring.score import METRIC_FILE, ROUGE_NAMES, choose_tokenizer, default_rouge, score, scores_per_example
from compositional.scoring.text_overlap import UnicodeTokenizer

TEXTS = {
    "en": "Anna will buy a red bike at the market.",
    "es": "¿Dónde compró José el paraguas extraño ayer?",
    "de": "Jürgen hat gestern die größte Straße überquert.",
    "zh": "我们明天在市场上买一辆红色的自行车。",
    "ru": "Анна купит красный велосипед на рынке.",
    "ar": "ستشتري آنا دراجة حمراء من السوق غدًا.",
    "hi": "अन्ना कल बाज़ार में लाल साइकिल खरीदेगी।",
    "ja": "アンナは明日、市場で赤い自転車を買います。",
    "th": "แอนนาจะซื้อจักรยานสีแดงที่ตลาดวันพรุ่งนี้",
    "emoji": "🎉🚲❤️👍🏽",
}
PAIRS = [
    ("Anna bought a red bike.", "Anna will buy a red bike at the market."),
    ("Anna bought a bike.\nShe was running home.", "She runs home.\nAnna buys bikes."),
    ("nothing in common", "some other words"),
    ("Zoë isst Äpfel", "Zoë isst viele Äpfel"),
    ("", "a reference"),
]


def rouge(output: str, reference: str, tokenizer: str) -> dict[str, float]:
    scores = scores_per_example([output], [reference])
    return {name: scores[f"{name}_{tokenizer}"][0] for name in ROUGE_NAMES}


def predictions(pairs: list[tuple[str, str]]) -> list[Prediction]:
    return [Prediction(str(n), f"input {n}", reference, output, False, False) for n, (output, reference) in enumerate(pairs)]


@pytest.mark.parametrize("language", TEXTS)
def test_identical_text_scores_one_in_every_language(language):
    scores = scores_per_example([TEXTS[language]], [TEXTS[language]])
    for name in ROUGE_NAMES:
        assert math.isclose(scores[f"{name}_unicode"][0], 1.0), name
    assert math.isclose(scores["chrf"][0], 1.0)
    assert scores["exact_match"] == [1.0]


@pytest.mark.parametrize("language", TEXTS)
def test_a_text_scores_less_than_one_against_half_of_it(language):
    text = TEXTS[language]
    assert 0 < rouge(text[: len(text) // 2], text, "unicode")["rougeL"] < 1


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("Straße, ÄPFEL don't", ["strasse", "äpfel", "don", "t"]),
        ("红色的car", ["红", "色", "的", "car"]),
        ("carは赤い", ["car", "は", "赤", "い"]),
        ("साइकिल खरीदेगी।", ["साइकिल", "खरीदेगी"]),
        ("دراجة حمراء", ["دراجة", "حمراء"]),
        ("🎉 🚲", ["🎉", "🚲"]),
        ("bike 🎉", ["bike"]),
        ("❤️ ☀️", ["❤", "️", "☀", "️"]),
        ("bike ❤️", ["bike"]),
        ("มี5คน", ["มี", "5", "ค", "น"]),
        ("iPhoneใหม่", ["iphone", "ใ", "ห", "ม่"]),
    ],
)
def test_the_unicode_tokenizer_by_value(text, tokens):
    assert UnicodeTokenizer().tokenize(text) == tokens


@pytest.mark.parametrize(("output", "reference"), PAIRS)
def test_the_papers_tokenizer_gives_rouge_scores_own_values(output, reference):
    names = ["rouge1", "rouge2", "rougeL", "rougeLsum"]
    expected = rouge_scorer.RougeScorer(names, use_stemmer=True).score(target=reference, prediction=output)
    ours = rouge(output, reference, "paper")
    assert {name: ours[name] for name in names} == {name: expected[name].fmeasure for name in names}


def test_the_papers_tokenizer_stems_and_the_unicode_one_does_not():
    assert rouge("running", "runs", "paper")["rouge1"] == 1.0
    assert rouge("running", "runs", "unicode")["rouge1"] == 0.0


@pytest.mark.parametrize("tokenizer", ["paper", "unicode"])
def test_weighted_rouge_by_hand(tokenizer):
    # of 4 words, 3 pairs and 2 triples, 3, 2 and 1 are shared
    by_hand = (3 / 4) / 6 + (2 / 3) / 3 + (1 / 2) / 2
    assert math.isclose(rouge("one two three four", "one two three five", tokenizer)["weighted_rouge"], by_hand)
    # 2 of 3 words and 1 of 2 pairs are shared, and no triple
    assert math.isclose(rouge("one two six", "one two ten", tokenizer)["weighted_rouge"], (2 / 3) / 6 + (1 / 2) / 3)


def test_rouge_l_by_hand_for_unequal_lengths():
    precision, recall = 2 / 2, 2 / 5
    assert math.isclose(rouge("uno tres", "uno dos tres cuatro cinco", "unicode")["rougeL"], 2 * precision * recall / 1.4)


@pytest.mark.parametrize(("output", "reference"), [*PAIRS, (TEXTS["zh"], TEXTS["ja"])])
def test_chrf_is_sacrebleus(output, reference):
    assert scores_per_example([output], [reference])["chrf"] == [CHRF().sentence_score(output, [reference]).score / 100]


def test_exact_match_ignores_white_space_only():
    outputs = [" Anna  left.\n", "anna left.", "Anna left", "left. Anna", ""]
    assert scores_per_example(outputs, ["Anna left."] * 5)["exact_match"] == [1.0, 0.0, 0.0, 0.0, 0.0]


def test_metrics_give_a_value_per_example_in_their_order():
    scores = scores_per_example([output for output, _ in PAIRS], [reference for _, reference in PAIRS])
    assert set(scores) == {f"{name}_{kind}" for name in ROUGE_NAMES for kind in ("paper", "unicode")} | {"chrf", "exact_match"}
    for position, (output, reference) in enumerate(PAIRS):
        alone = scores_per_example([output], [reference])
        assert {name: values[position] for name, values in scores.items()} == {name: values[0] for name, values in alone.items()}


def test_the_metric_is_loaded_by_its_path_without_a_network_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    loaded = evaluate.load(str(METRIC_FILE), keep_in_memory=True)
    scores = loaded.compute(predictions=["same text", "other"], references=["same text", "words"])
    assert set(scores) == {f"{name}_{kind}" for name in ROUGE_NAMES for kind in ("paper", "unicode")} | {"chrf", "exact_match"}
    bigrams = {"rouge2_paper", "rouge2_unicode"}
    assert all(values[0] > values[1] for name, values in scores.items() if name not in bigrams)


def test_the_tokenizer_follows_the_language_unless_it_is_asked_for():
    assert [choose_tokenizer("auto", language) for language in ("en", "es", "fr", "de")] == ["paper", *["unicode"] * 3]
    assert [choose_tokenizer("paper", "es"), choose_tokenizer("unicode", "en")] == ["paper", "unicode"]


@pytest.mark.parametrize("tokenizer", ["paper", "unicode"])
def test_plain_names_are_of_the_chosen_tokenizer_and_both_are_kept(tokenizer):
    scores = score(predictions([(TEXTS["ru"], TEXTS["ru"]), (TEXTS["es"], TEXTS["es"])]), "rougeL", tokenizer, 20, 0)
    assert scores.metrics["rougeL_unicode"].mean == 1.0
    assert scores.metrics["rougeL_paper"].mean == 0.5  # the paper's tokenizer sees no Cyrillic letter
    assert scores.metrics["rougeL"] == scores.metrics[f"rougeL_{tokenizer}"]
    assert (scores.headline_metric, scores.rouge_tokenizer) == ("rougeL", tokenizer)


def test_the_figure_by_the_default_tokenizer_is_had_from_results_where_the_headline_is_by_another():
    pairs = predictions([("Über die Brücke", "über die brücke"), ("los gatos negros", "el gato negro")])
    for metric in ("rougeL", "weighted_rouge"):
        unicode, paper = (asdict(score(pairs, metric, tokenizer, 20, 0)) for tokenizer in ("unicode", "paper"))
        assert default_rouge(unicode) == paper["metrics"][metric]["mean"] != unicode["metrics"][metric]["mean"]
        assert default_rouge(paper) is None
        assert default_rouge({"headline_metric": metric, "rouge_tokenizer": "unicode"}) is None, "results of an earlier version"


@pytest.mark.parametrize(("text", "expected"), [("yes", 1 / 6), ("thank you", 1 / 6 + 1 / 3), ("how are you", 1.0)])
def test_weighted_rouge_of_a_perfect_answer_of_one_or_two_words_is_below_one(text, expected):
    """They have no ROUGE-3, and one word has no ROUGE-2: docs/fidelity.md says so."""
    scores = scores_per_example([text], [text])
    for tokenizer in ("paper", "unicode"):
        assert scores[f"weighted_rouge_{tokenizer}"] == pytest.approx([expected])
        assert scores[f"rougeL_{tokenizer}"] == [1.0]


def test_each_examples_scores_are_kept_and_their_means_are_the_results(tmp_path):
    pairs = [(TEXTS["es"], TEXTS["es"]), ("nada", TEXTS["es"]), (TEXTS["es"][:20], TEXTS["es"])]
    path = tmp_path / "scores_test.jsonl"
    scores = score(predictions(pairs), "rougeL", "unicode", 20, 0, path)
    rows = [row for _, row in read_json_lines(path)]
    assert [row["id"] for row in rows] == [one.id for one in predictions(pairs)]
    for name in ("rougeL", "weighted_rouge", "chrf", "exact_match"):
        assert math.isclose(sum(row[name] for row in rows) / 3, scores.metrics[name].mean, abs_tol=1e-6)
    assert [row["exact_match"] for row in rows] == [1, 0, 0]


# ---- intervals


def interval_of(values: list[float], resamples: int, seed: int) -> Interval:
    """The interval of examples with an input each."""
    return bootstrap_interval(values, [str(number) for number in range(len(values))], resamples, seed)


def test_an_interval_contains_the_mean_and_is_the_same_each_time():
    values = [0.3, 0.1, 0.2, 0.9, 1.0, 0.4]
    interval = interval_of(values, 500, 3)
    assert math.isclose(interval.mean, sum(values) / 6)
    assert 0 <= interval.low < interval.mean < interval.high <= 1
    assert interval == interval_of(values, 500, 3)
    many = [math.sin(number) ** 2 for number in range(100)]
    assert interval_of(many, 500, 3) != interval_of(many, 500, 4)


def test_an_interval_narrows_with_more_examples_as_the_normal_one_does():
    widths = []
    for count in (50, 800):
        values = [float(number % 2) for number in range(count)]
        interval = interval_of(values, 2000, 0)
        widths.append(interval.high - interval.low)
        assert math.isclose(widths[-1], 2 * 1.96 * 0.5 / math.sqrt(count), rel_tol=0.1)
    assert widths[1] < widths[0] / 3


def test_the_interval_of_results_is_over_inputs_and_each_score_has_its_input(tmp_path):
    three = [replace(one, id=f"{one.id}_{copy}") for one in predictions(PAIRS) for copy in (1, 2, 3)]
    path = tmp_path / "scores_test.jsonl"
    alone, copied = score(predictions(PAIRS), "rougeL", "paper", 200, 0), score(three, "rougeL", "paper", 200, 0, path)
    for name, interval in copied.metrics.items():
        assert asdict(interval) == pytest.approx(asdict(alone.metrics[name])), name
    assert copied.intervals == INTERVALS
    names = [row["input"] for _, row in read_json_lines(path)]
    assert names == [name_of_input(one.input) for one in three]
    assert len(set(names)) == len(PAIRS)
