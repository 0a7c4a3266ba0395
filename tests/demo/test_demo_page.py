"""The demo's page in a headless Chromium."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

import httpx
import pytest
import torch

from compositional.core.errors import UserError
from conftest import command_in
from helpers.browsers import chromium, violations
from helpers.demos import OTHERS, SHOWN, failing_at_first, load, make_workspace, served, slowed, wait_until_idle

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.slow(40)
TEXT = "Tom: I lost a key.\nMia: Where?\nTom: At school."
NEW_TOKENS = 12  # of each pass
LABELS = ["Zero-shot", "Multi-step LoRA usage", "Learnable Calibration", "Learnable Calibration++"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as running:
        yield running


@pytest.fixture(scope="module")
def url(browser, tmp_path_factory, single_tasks, tiny_models) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("demo")
    workspace = make_workspace(folder, single_tasks("llama"), tiny_models["llama"], command_in(folder))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(torch.cuda, "is_available", lambda: False)
        with served(load(workspace, folder / "engines", f"--experiments {' '.join((*SHOWN, *OTHERS))}")) as address:
            yield address


@pytest.fixture
def page(browser, url) -> Iterator[Page]:
    """The page, with a random conversation; nothing may go wrong in it, or be asked of another server."""
    context = browser.new_context()
    opened = context.new_page()
    opened.set_default_timeout(20_000)
    wrong: list[str] = []
    opened.on("console", lambda message: message.type == "error" and wrong.append(message.text))
    opened.on("pageerror", lambda error: wrong.append(str(error)))
    opened.on("request", lambda request: request.url.startswith(url) or wrong.append(request.url))
    opened_at(opened, url)
    yield opened
    context.close()
    # The browser itself logs each response that is an error; "data:" is the page's empty icon.
    assert [one for one in wrong if not one.startswith(("Failed to load resource", "data:"))] == []


def opened_at(page: Page, url: str) -> Page:
    from playwright.sync_api import expect

    page.goto(url)
    expect(page.get_by_label("Conversation")).to_have_value(re.compile(":"), timeout=20_000)
    return page


def answer(page: Page, text: str = TEXT) -> None:
    page.get_by_label("Conversation").fill(text)
    page.get_by_role("button", name="Answer").click()
    finished(page)


def finished(page: Page) -> None:
    page.get_by_role("status").filter(has_text="All methods have answered.").wait_for()


def cards(page: Page) -> dict[str, dict[str, str]]:
    """The text and the facts of each method's card."""
    found = {}
    for card in page.get_by_role("article").all():
        facts = dict(zip(card.locator("dt").all_inner_texts(), card.locator("dd").all_inner_texts(), strict=True))
        found[card.get_by_role("heading").inner_text()] = facts | {"text": card.locator(".answer").inner_text()}
    return found


# ---- asking


def test_a_typed_conversation_is_answered_side_by_side(page, url):
    answer(page)
    found = cards(page)
    assert list(found) == LABELS
    body = {"text": TEXT, "experiments": SHOWN}
    lines = [json.loads(line) for line in httpx.post(f"{url}answers", json=body, timeout=60, trust_env=False).text.splitlines()]
    texts = {one["experiment"]: one["texts"] for one in lines if one["done"]}
    offered = {one["label"]: one for one in httpx.get(f"{url}offered", trust_env=False).json()}
    for label in LABELS:
        assert re.fullmatch(r"\d+\.\d\d", found[label]["Seconds"])
        assert found[label]["Passes"] == f"{offered[label]['passes']}×"
        assert found[label]["Extra bytes"] == f"{offered[label]['extra_bytes']:,}"
    for name, label in zip(SHOWN, LABELS, strict=True):
        assert found[label]["text"].split() == texts[name][-1].split()
    (step,) = page.get_by_role("listitem").all()
    assert step.inner_text().startswith("Summarize the following text: ")
    assert step.locator("span").get_attribute("lang") == "en"
    assert {one.get_attribute("lang") for one in page.locator(".answer").all()} == {"es"}


def test_tokens_appear_as_they_are_made(page):
    page.evaluate(
        """() => {
          window.seen = [];
          new MutationObserver(() => {
            const texts = [...document.querySelectorAll("#cards .answer")].map((one) => one.textContent);
            if (texts.length) window.seen.push([texts[0], texts.at(-1)]);
          }).observe(document.getElementById("cards"), { childList: true, subtree: true, characterData: true });
        }"""
    )
    with slowed(0.02):
        page.get_by_role("button", name="Answer").click()
        finished(page)
    seen = page.evaluate("window.seen")
    assert len({first for first, last in seen if last == "Waits for its turn."}) >= 4


def test_a_random_conversation_has_a_target_and_a_typed_one_has_none(page):
    page.get_by_role("button", name="Answer").click()
    finished(page)
    target = page.get_by_text("Target of the data set")
    target.click()
    assert page.locator("#target p").inner_text()
    taken = set()
    for _ in range(20):  # of eight
        with page.expect_response("**/example*"):
            page.get_by_role("button", name="Random conversation").click()
        taken.add(page.get_by_label("Conversation").input_value())
    assert len(taken) > 1
    answer(page)
    assert not target.is_visible()


def test_an_answers_target_and_end_leave_with_the_next_question(page):
    page.get_by_role("button", name="Answer").click()
    finished(page)
    held = []
    page.route("**/answers", lambda route: held.append(route))
    page.get_by_label("Conversation").fill(TEXT)
    with page.expect_request("**/answers"):
        page.get_by_role("button", name="Answer").click()
    assert page.get_by_role("status").inner_text() == ""
    assert page.get_by_text("Target of the data set").is_hidden()
    held[0].continue_()
    finished(page)
    page.unroute("**/answers")


def test_a_random_conversation_that_comes_late_leaves_what_was_typed(page):
    conversation, held = page.get_by_label("Conversation"), []
    page.route("**/example*", lambda route: held.append(route))
    with page.expect_request("**/example*"):
        page.get_by_role("button", name="Random conversation").click()
    conversation.fill(TEXT)
    with page.expect_response("**/example*"):
        held[0].continue_()
    page.unroute("**/example*")
    answer(page, conversation.input_value())
    assert conversation.input_value() == TEXT
    assert page.get_by_text("Target of the data set").is_hidden()


def test_the_last_random_conversation_stands_and_is_the_one_that_is_answered(page):
    held = []
    page.route("**/example*", lambda route: held.append(route))
    for _ in range(2):
        with page.expect_request("**/example*"):
            page.get_by_role("button", name="Random conversation").click()
    with page.expect_request("**/answers") as asked:
        page.get_by_role("button", name="Answer").click()
        for number in (1, 0):
            with page.expect_response("**/example*"):
                held[number].fulfill(json={"text": f"Tom: Number {number}.", "reference": "A target."})
    finished(page)
    assert asked.value.post_data_json["text"] == page.get_by_label("Conversation").input_value() == "Tom: Number 1."
    page.get_by_text("Target of the data set").click()
    assert page.locator("#target p").inner_text() == "A target."
    page.unroute("**/example*")


def test_language_and_methods_follow_the_main_task(page):
    main, variant, methods = page.get_by_label("Main task"), page.get_by_label("Language or tone"), page.get_by_role("checkbox")
    assert main.locator("option").all_inner_texts() == ["Summarize the following text", "Suggest a reply for the following text"]
    assert variant.locator("option").all_inner_texts() == ["Translate it to Spanish", "Translate it to French"]
    assert methods.count() == len(SHOWN)
    variant.select_option("Translate it to French")
    assert methods.count() == 1
    dialogue = page.get_by_label("Conversation").input_value()
    main.select_option(label="Suggest a reply for the following text")
    assert variant.locator("option").all_inner_texts() == ["Rewrite it in a witty tone"]
    # A random conversation is one of the task's.
    from playwright.sync_api import expect

    expect(page.get_by_label("Conversation")).not_to_have_value(dialogue, timeout=20_000)
    answer(page)
    assert list(cards(page)) == ["Zero-shot"]
    assert page.locator(".answer").get_attribute("lang") == "en"


def test_only_the_chosen_methods_answer(page):
    for label in LABELS[1:3]:
        page.get_by_role("checkbox", name=label, exact=True).uncheck()
    answer(page)
    assert list(cards(page)) == [LABELS[0], LABELS[3]]


# ---- mistakes


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("  ", "The conversation is empty: type one, or take a random one."),
        ("x" * 30_000, "The conversation is too long: it has 30,000 characters, and at most 20,000 are read."),
    ],
)
def test_empty_and_huge_input_gets_a_message(text, message, page):
    conversation = page.get_by_label("Conversation")
    conversation.fill(text)
    page.get_by_role("button", name="Answer").click()
    page.get_by_role("alert").filter(has_text=message).wait_for()
    assert conversation.evaluate("element => element === document.activeElement")
    assert conversation.get_attribute("aria-invalid") == "true"
    assert cards(page) == {}
    assert violations(page) == []
    answer(page)
    assert page.get_by_role("alert").inner_text() == ""
    assert conversation.get_attribute("aria-invalid") is None


def test_no_method_gets_a_message(page):
    for label in LABELS:
        page.get_by_role("checkbox", name=label, exact=True).uncheck()
    page.get_by_role("button", name="Answer").click()
    page.get_by_role("alert").filter(has_text="Choose at least one method.").wait_for()


def test_a_long_conversation_is_cut_and_the_card_says_so(page):
    answer(page, "Tom: I lost a key. " * 1000)
    assert page.get_by_text("its end was not read").count() == len(SHOWN)


def test_a_server_that_has_ended_gets_a_message(page):
    page.route("**/answers", lambda route: route.abort())
    page.get_by_role("button", name="Answer").click()
    page.get_by_role("alert").filter(has_text="The server does not answer").wait_for()
    page.unroute("**/answers")
    page.route("**/example*", lambda route: route.abort())
    answer(page)
    assert page.get_by_role("alert").inner_text() == ""
    page.get_by_role("button", name="Random conversation").click()
    page.get_by_role("alert").filter(has_text="The server does not answer").wait_for()
    page.unroute("**/example*")


def test_a_method_that_fails_says_why_on_its_card_and_the_others_answer(page):
    with failing_at_first(UserError("its values are no numbers")):
        page.get_by_role("button", name="Answer").click()
        page.get_by_role("status").filter(has_text="1 of 4 methods failed.").wait_for()
    assert "No answer: its values are no numbers" in page.get_by_role("article").first.inner_text()
    assert page.locator('article[data-state="done"]').count() == len(SHOWN) - 1
    assert violations(page) == []


def test_answers_that_break_off_get_a_message(page):
    with failing_at_first(RuntimeError("a fault of the engine")):
        page.get_by_role("button", name="Answer").click()
        page.get_by_role("alert").filter(has_text="The answers broke off").wait_for()


# ---- turns


def test_two_users_are_answered_at_once(page, browser, url):
    context = browser.new_context()
    other = opened_at(context.new_page(), url)
    page.get_by_label("Conversation").fill(TEXT)
    with slowed(0.1):
        page.get_by_role("button", name="Answer").click()
        other.get_by_role("button", name="Answer").click()
        other.locator('article[data-state="done"]').first.wait_for()
        assert page.get_by_role("status").inner_text() != "All methods have answered."
        finished(page)
        finished(other)
    assert list(cards(page)) == list(cards(other)) == LABELS
    context.close()


@pytest.mark.parametrize("how", ["close", "stop", "ask again"])
def test_what_nobody_waits_for_is_not_computed(how, page, browser, url):
    context = browser.new_context()
    other = opened_at(context.new_page(), url)
    with slowed(0.02) as made:
        answer(other)
        everything = len(made)
    with slowed(0.1) as made:
        other.get_by_role("button", name="Answer").click()
        other.locator('article[data-state="answering"]').first.wait_for()
        if how == "close":
            context.close()
        elif how == "stop":
            other.get_by_role("button", name="Stop").click()
            other.get_by_role("status").filter(has_text="Stopped.").wait_for()
        else:
            for label in LABELS[1:]:
                other.get_by_role("checkbox", name=label, exact=True).uncheck()
            other.get_by_role("button", name="Answer").click()
            finished(other)
            assert list(cards(other)) == LABELS[:1]
            del made[:NEW_TOKENS]
        assert wait_until_idle(made) < 0.8 * everything
    context.close()
    answer(page)


# ---- accessibility


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_axe_finds_nothing_before_while_and_after_answering(scheme, width, page):
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 800})
    assert violations(page) == []
    with slowed(0.05):
        page.get_by_role("button", name="Answer").click()
        page.locator('article[data-state="answering"]').first.wait_for()
        assert violations(page) == []
        finished(page)
    page.get_by_text("Target of the data set").click()
    assert violations(page) == []
    wide = page.evaluate("document.documentElement.scrollWidth")
    assert wide <= width, "the page scrolls sideways"


def test_axe_would_find_a_label_that_is_missing(page):
    page.evaluate("document.querySelector('label[for=conversation]').remove()")
    assert any("label" in one for one in violations(page))


def test_all_is_done_by_keyboard(page):
    names = []
    page.get_by_label("Conversation").focus()
    for _ in range(9):
        names.append(page.evaluate("document.activeElement.id || document.activeElement.value"))
        page.keyboard.press("Tab")
    assert names == ["conversation", "random", "main-task", "variant", *SHOWN, "answer"]
    page.get_by_role("checkbox", name=LABELS[0]).focus()
    page.keyboard.press("Space")
    page.get_by_label("Language or tone").focus()
    page.keyboard.press("ArrowDown")
    assert page.get_by_role("checkbox").count() == 1
    page.keyboard.press("ArrowUp")
    page.get_by_role("button", name="Answer").focus()
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineWidth")
    assert outline == "3px"
    page.keyboard.press("Enter")
    finished(page)
    assert list(cards(page)) == LABELS
