"""Write the pictures of docs/demo.md, of a demo that runs: python -m scripts.demo_pictures (after `make browser`)."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

PICTURES = Path(__file__).parents[1] / "docs" / "pictures"
# By name: colours, width and height in pixels, and how many methods answer, the last ones.
VIEWS = {"demo": ("light", 1320, 1000, 99), "demo_narrow_dark": ("dark", 400, 1500, 2)}


def find_chromium() -> str | None:
    """The program of a Chromium on this machine."""
    names = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
    return next(filter(None, map(shutil.which, names)), None)


def main(url: str = "http://127.0.0.1:8642/") -> None:
    """Answer a random conversation in each view, and save what the page shows."""
    from PIL import Image
    from playwright.sync_api import expect, sync_playwright

    PICTURES.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as running:
        browser = running.chromium.launch(executable_path=find_chromium())
        for name, (scheme, width, height, methods) in VIEWS.items():
            page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
            page.goto(url)
            expect(page.get_by_label("Conversation")).to_have_value(re.compile(":"))
            for box in page.get_by_role("checkbox").all()[:-methods]:
                box.uncheck()
            page.get_by_role("button", name="Answer").click()
            page.get_by_role("status").filter(has_text="All methods have answered.").wait_for(timeout=600_000)
            page.get_by_text("Target of the data set").click()
            path = PICTURES / f"{name}.png"
            page.screenshot(path=path, full_page=True)
            Image.open(path).convert("RGB").quantize(32).save(path, optimize=True)
        browser.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
