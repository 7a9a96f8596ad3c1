"""One browser for the tests of the page."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from helpers.browser import launched, missing

if TYPE_CHECKING:
    from playwright.sync_api import Browser


@pytest.fixture(scope="session")
def browser() -> Iterator["Browser"]:
    """Chromium without a window; a test that needs it is skipped where there is none."""
    if (reason := missing()) is not None:
        pytest.skip(f"{reason}; the page is checked by its markup alone")
    with launched() as window:
        yield window
