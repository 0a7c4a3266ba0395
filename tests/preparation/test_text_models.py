"""Text models: what they make of a text alone, in a batch, and in pieces; what they are made of; what is refused."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import pytest

import helpers.text_models as tiny
from compositional.core.errors import UserError
from compositional.core.machine import device_name
from compositional.pocket.examples import draw_examples
from compositional.pocket.sentences import render_all
from compositional.preparation.text_models import (
    TextModel,
    TextModelSettings,
    find_text_model,
    llm_toys,
    split_text,
    text_model_files,
)
from compositional.tasks import find_task

pytestmark = [pytest.mark.filterwarnings("ignore:.*sacremoses"), pytest.mark.usefixtures("one_thread")]

POCKET = list(draw_examples("sentences", "validation"))[:12]
SENTENCES = [example.input for example in POCKET]
UNICODE = [
    "¿Qué tal? Naïve café 😀👩‍👩‍👧",
    "漢字かな交じり文",
    "Ünïcödé – “quoted” … ½",
    "#Person1#: I ' Ve  been\there.\n",
    "?!",
    "a" * 50,
]
TEXTS = [*SENTENCES, *UNICODE, SENTENCES[0]]
FUZZ = ["".join(Random(seed).choices("  \n\t.!?…;,—aé漢😀", k=seed)) for seed in range(2, 120)]
ADVERSE = [
    " " * 40,
    "\n" * 40,
    ".!?" * 20,
    ", ; : " * 9,
    "漢字" * 30,
    "👩‍👩‍👧" * 9,
    "x\n\n\n y.  Z?\r\n" * 5,
    "\u2028\u200b" * 20,
    "a" * 99,
]


def text_model(name: str, variant: str, *settings: str | None, **options: Any) -> TextModel:
    """A text model in float32 for a language or a tone."""
    task = find_task("translation" if variant in ("es", "fr", "de") else "tone_adjustment", variant)
    return find_text_model(name, task, TextModelSettings(*settings, dtype="float32", **options), "--text_model")


def mistake(action: Callable[[], object]) -> str:
    """The one line that an action ends with."""
    with pytest.raises(UserError) as caught:
        action()
    assert len(caught.value.mistakes) == 1
    assert "\n" not in caught.value.mistakes[0]
    return caught.value.mistakes[0]


def tokens_of(model: TextModel) -> Callable[[str], int]:
    """The length of a text in a started model's tokens."""
    return lambda text: len(model.tokenizer(text)["input_ids"])


@pytest.fixture(scope="module")
def translator_folder(tmp_path_factory) -> Path:
    return tiny.build_translator(tmp_path_factory.mktemp("translator") / "opus-mt-en-es")


@pytest.fixture(scope="module")
def translator(translator_folder) -> TextModel:
    translator = text_model("marian", "es", str(translator_folder))
    translator.start()
    return translator


@pytest.fixture(scope="module")
def translated(translator_folder) -> Callable[[str], str]:
    """transformers' own translation of one text."""
    from transformers import MarianMTModel, MarianTokenizer

    tokenizer = MarianTokenizer.from_pretrained(translator_folder)
    model = MarianMTModel.from_pretrained(translator_folder).eval().to(device_name())

    def translate(text: str) -> str:
        encoded = tokenizer(text, return_tensors="pt").to(model.device)
        return tokenizer.decode(model.generate(**encoded, max_length=tiny.POSITIONS)[0], skip_special_tokens=True).strip()

    return translate


@pytest.fixture(scope="module")
def tone_files(tmp_path_factory, tiny_tokenizer) -> tuple[str, str]:
    """The folders of a tone rewriter's model and adapter."""
    folder = tmp_path_factory.mktemp("tones")
    model = tiny.build_tone_model(folder / "model", tiny_tokenizer)
    return str(model), str(tiny.build_tone_adapter(folder / "adapter", model))


@pytest.fixture(scope="module")
def rewriter(tone_files) -> TextModel:
    rewriter = text_model("llm_toys", "casual", *tone_files)
    rewriter.start()
    return rewriter


@pytest.fixture(scope="module")
def toned(tone_files) -> Callable[..., str]:
    """What transformers and PEFT make of one prompt, with the adapter or without it."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tone_files[0])
    base, other = (AutoModelForCausalLM.from_pretrained(tone_files[0]).eval().to(device_name()) for _ in range(2))
    adapted = PeftModel.from_pretrained(other, tone_files[1]).merge_and_unload()

    def rewrite(text: str, tone: str = "casual", has_adapter: bool = True) -> str:
        prompt = (
            f"### Instruction:\nChange the tone of the following Input sentence to {tone}.\n\n### Input:\n{text}\n\n### Response:\n"
        )
        encoded = tokenizer(prompt, return_tensors="pt", return_token_type_ids=False).to(base.device)
        model = adapted if has_adapter else base
        ids = model.generate(**encoded, max_new_tokens=tiny.TONE_POSITIONS // 2, pad_token_id=tokenizer.eos_token_id)
        return tokenizer.decode(ids[0, encoded["input_ids"].shape[1] :], skip_special_tokens=True).strip()

    return rewrite


@pytest.mark.parametrize(
    ("text", "longest", "pieces"),
    [
        ("One two. Three four.", 20, ["One two. Three four."]),
        ("One two. Three four. Five six.", 26, ["One two. Three four. ", "Five six."]),
        ("One. Two.\nThree. Four five six.", 17, ["One. Two.\n", "Three. ", "Four five six."]),
        ("Is it? It is! Well… Yes.", 8, ["Is it? ", "It is! ", "Well… ", "Yes."]),
        ("If it rains, we stay; so we go.", 26, ["If it rains, we stay; ", "so we go."]),
        ("Hello you. If it rains, we stay in. Bye.", 15, ["Hello you. ", "If it rains, ", "we stay in. ", "Bye."]),
        ("one two three four", 8, ["one two ", "three ", "four"]),
        ("so abcdefghij", 3, ["so ", "ab", "cde", "fg", "hij"]),
        ("漢字かな交じり文", 4, ["漢字かな", "交じり文"]),
    ],
)
def test_a_text_is_split_between_sentences_then_clauses_then_words_then_within_a_word(text, longest, pieces):
    assert split_text(text, len, longest) == pieces


@pytest.mark.parametrize("length", [len, lambda text: 1 + len(text.encode()), lambda text: 2 + len(text.split()) + len(text) // 3])
def test_pieces_are_short_enough_and_make_up_the_text(length):
    for text in [*ADVERSE, *FUZZ, " ".join(TEXTS)]:
        for longest in (5, 9, 30):
            pieces = split_text(text, length, longest)
            assert "".join(pieces) == text
            assert all(0 < length(piece) <= longest for piece in pieces)


def test_two_spaces_after_a_sentence_do_not_hide_its_end():
    assert split_text("One two three.  Four five six.", len, 22) == ["One two three.  ", "Four five six."]


def test_translations_are_those_of_the_model_for_each_text_alone(translator, translated):
    texts = [text for text in TEXTS if tokens_of(translator)(text) <= translator.longest_text]
    made = translator.rewrite(texts)
    assert made == [translated(text) for text in texts]
    assert len(set(made)) > len(texts) - 5 > 10  # else their order would show nothing


def test_the_same_batch_has_the_same_translations_also_in_another_run(translator, translator_folder):
    again = text_model("marian", "es", str(translator_folder.parent / "opus-mt-en-{language}"))
    again.start()
    assert translator.rewrite(TEXTS[:7]) == translator.rewrite(TEXTS[:7]) == again.rewrite(TEXTS[:7])


def test_a_text_with_too_many_tokens_is_translated_sentence_by_sentence(translator, translated):
    tokens = tokens_of(translator)
    longest = translator.longest_text
    assert longest == tiny.POSITIONS * 3 // 4
    sentences = [text for text in map(partial(re.sub, r"[.!?] ", " and "), SENTENCES) if longest / 2 < tokens(text) <= longest]
    assert len(sentences) > 2  # no two of them fit together
    made = translator.rewrite([SENTENCES[0], " ".join(sentences), SENTENCES[1], "a" * 200])
    assert made[:3] == [translated(SENTENCES[0]), " ".join(filter(None, map(translated, sentences))), translated(SENTENCES[1])]
    assert made[3] == " ".join(filter(None, map(translated, split_text("a" * 200, tokens, longest))))


def test_nothing_is_made_of_the_white_space_before_a_long_text(translator):
    words = "The cat reads " * 20
    assert translator.rewrite(["\n" + words]) == translator.rewrite([words])


def test_tones_are_those_of_the_model_with_its_adapter_for_each_text_alone(rewriter, toned):
    texts = [*SENTENCES[:4], *UNICODE[:3]]
    made = rewriter.rewrite(texts)
    assert made == [toned(text) for text in texts]
    assert len(set(made)) == len(texts)
    assert not set(made) & {toned(text, has_adapter=False) for text in texts}
    assert rewriter.rewrite(texts) == made


@pytest.mark.parametrize("tone", ["professional", "witty"])
def test_each_tone_has_a_prompt_of_its_own(tone, tone_files, toned):
    rewriter = text_model("llm_toys", tone, *tone_files)
    rewriter.start()
    assert rewriter.rewrite(SENTENCES[:2]) == [toned(text, tone) for text in SENTENCES[:2]]
    assert rewriter.identity() != text_model("llm_toys", "casual", *tone_files).identity()


def test_a_text_with_too_many_tokens_for_its_prompt_is_rewritten_in_pieces(rewriter, toned):
    tokens = tokens_of(rewriter)
    prompt, output = llm_toys.PROMPT.format(tone="casual", text=""), tiny.TONE_POSITIONS // 2
    assert rewriter.longest_text == min(tiny.TONE_POSITIONS - output - tokens(prompt), output * 3 // 4)
    pieces = split_text(" ".join(SENTENCES[:9]), tokens, rewriter.longest_text)
    assert len(pieces) > 2
    made = rewriter.rewrite([SENTENCES[0], " ".join(SENTENCES[:9]), SENTENCES[1]])
    assert made == [toned(SENTENCES[0]), " ".join(toned(piece.strip()) for piece in pieces), toned(SENTENCES[1])]


def test_a_tone_ends_before_the_end_marker(rewriter, monkeypatch):
    with monkeypatch.context() as patch:
        said = "\n A text.\n\n### END\n### Input:\nmore"
        patch.setattr(rewriter.tokenizer, "batch_decode", lambda ids, **options: [said] * len(ids))
        assert rewriter.rewrite(SENTENCES[:2]) == ["A text.", "A text."]
    whole, ids, generate = rewriter.rewrite(SENTENCES[:3]), [], rewriter.model.generate
    monkeypatch.setattr(rewriter.model, "generate", lambda **options: ids.append(generate(**options)) or ids[-1])
    rewriter.rewrite([SENTENCES[1]])
    marker = whole[1][20:30]
    monkeypatch.setattr(llm_toys, "END", marker)
    assert rewriter.rewrite([SENTENCES[1]]) == [whole[1].partition(marker)[0].strip()]
    assert ids[1].shape[1] < ids[0].shape[1], "the model goes on after the end marker"
    assert rewriter.rewrite(SENTENCES[:3]) == [text.partition(marker)[0].strip() for text in whole]


def test_an_adapter_that_would_change_more_than_its_modules_is_refused(tone_files, tiny_models, tmp_path):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    tied = AutoModelForCausalLM.from_pretrained(tiny_models["llama"])
    get_peft_model(tied, LoraConfig(r=2, target_modules=["lm_head"])).save_pretrained(tmp_path / "tied")
    rewriter = text_model("llm_toys", "casual", str(tiny_models["llama"]), str(tmp_path / "tied"))
    assert f"tied: lm_head of {tiny_models['llama']} is tied to the embeddings" in mistake(rewriter.start)
    base = AutoModelForCausalLM.from_pretrained(tone_files[0])
    pissa = LoraConfig(r=2, target_modules=["query_key_value"], init_lora_weights="pissa")
    get_peft_model(base, pissa).save_pretrained(tmp_path / "pissa")
    assert "pissa" in mistake(text_model("llm_toys", "casual", tone_files[0], str(tmp_path / "pissa")).check)


def test_a_text_model_is_found_by_its_name_for_the_tasks_it_does():
    settings = TextModelSettings()
    french, witty = find_task("translation", "fr"), find_task("tone_adjustment", "witty")
    unknown = mistake(lambda: find_text_model("marain", french, settings, "--translator"))
    assert unknown == "--translator marain: there is no such text model: did you mean marian?"
    unable = mistake(lambda: find_text_model("marian", witty, settings, "--tone_rewriter"))
    able = [name for name, module in text_model_files().items() if "tone_adjustment" in module.TASKS]
    assert {"llm_toys", "pocket"} <= set(able)
    assert unable == f"--tone_rewriter marian: it does not do tone_adjustment; {', '.join(able)} can"
    assert find_text_model("marian", french, settings, "--translator").identity()["model"] == "Helsinki-NLP/opus-mt-en-fr@main"


@pytest.mark.parametrize("style", ["de", "casual"])
def test_pockets_grammar_says_what_it_can_read_and_takes_no_model(style):
    grammar = text_model("pocket", style)
    assert grammar.rewrite(SENTENCES) == [render_all(example.meaning, style) for example in POCKET]
    assert "can't read 'The quick brown fox.'" in mistake(lambda: grammar.rewrite([*SENTENCES, "The quick brown fox."]))
    for settings in (("some/model",), (None, "some/adapter")):
        assert "takes no model and no adapter" in mistake(lambda settings=settings: text_model("pocket", style, *settings))
