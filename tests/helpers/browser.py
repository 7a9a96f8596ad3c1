"""A real browser for the page's tests: the system's Chromium, driven by Playwright."""

from __future__ import annotations

import importlib.util
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# As root, as containers are, Chromium has no sandbox; it must sound and fetch nothing of its own.
FLAGS = [
    "--no-sandbox",
    "--disable-background-networking",
    "--disable-component-update",
    "--autoplay-policy=no-user-gesture-required",
    "--mute-audio",
]


def _chromium() -> str | None:
    return next((path for name in NAMES if (path := shutil.which(name))), None)


def missing() -> str | None:
    """What a test in a browser lacks on this machine, None where it can run."""
    if importlib.util.find_spec("playwright") is None:
        return "no playwright here: pip install playwright"
    return None if _chromium() else f"no Chromium here (looked for {', '.join(NAMES)})"


@contextmanager
def launched() -> Iterator[Browser]:
    """Chromium without a window."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=_chromium(), args=FLAGS)
        try:
            yield browser
        finally:
            browser.close()


@dataclass
class Sight:
    """A page as a reader has it open, with all that it said and asked of the network."""

    page: Page
    said: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def values(self, selector: str, script: str) -> Any:
        """`script` of each element `e` that the selector finds."""
        return self.page.locator(selector).evaluate_all(f"found => found.map(e => {script})")

    def until(self, selector: str, script: str, seconds: float = 20.0) -> None:
        """Waits until `script` of the first element `e` holds. Playwright's own waiting needs `eval`, which the
        page forbids.
        """
        end = time.monotonic() + seconds
        while not self.page.locator(selector).first.evaluate(f"e => {script}"):
            if time.monotonic() > end:
                raise TimeoutError(f"{selector}: {script} did not come about in {seconds} s")
            self.page.wait_for_timeout(20)


@contextmanager
def opened(
    browser: Browser,
    file: Path | str,
    address: str = "",
    width: int = 1280,
    height: int = 900,
    dark: bool = False,
) -> Iterator[Sight]:
    """The page, a file or a URL, in a window of its own; a narrow one is a phone's."""
    context = browser.new_context(
        viewport={"width": width, "height": height},
        color_scheme="dark" if dark else "light",
        is_mobile=width < 600,
        has_touch=width < 600,
    )
    try:
        page = context.new_page()
        page.set_default_timeout(20_000)
        sight = Sight(page)
        page.on(
            "console",
            lambda told: sight.said.append(told.text) if told.type in ("warning", "error") else None,
        )
        page.on("pageerror", lambda error: sight.said.append(str(error)))
        page.on("request", lambda asked: sight.asked.append(asked.url))
        page.goto((file if isinstance(file, str) else file.resolve().as_uri()) + address)
        yield sight
    finally:
        context.close()
