"""A headless Chromium for tests of pages, and what a checker of accessibility finds in one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from scripts.demo_pictures import find_chromium

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page


@contextmanager
def chromium() -> Iterator[Browser]:
    """The browser; skips the test where there is none, or no Playwright."""
    playwright = pytest.importorskip("playwright.sync_api", reason="no Playwright: make browser")
    path = find_chromium()
    if not path:
        pytest.skip("no Chromium: make browser")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=path)
        yield browser
        browser.close()


def violations(page: Page) -> list[str]:
    """What axe finds wrong with a page: the rule, and the elements."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page).response["violations"]
    return [f"{one['id']}: {', '.join(node['html'][:100] for node in one['nodes'])}" for one in found]
