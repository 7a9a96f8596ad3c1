"""The recipe of small videos."""

from __future__ import annotations

import pytest

from helpers.small_videos import RECIPE
from ovi_lab.data.build.recipe import Recipe, read_recipe


@pytest.fixture(scope="session")
def recipe() -> Recipe:
    return read_recipe("planted", RECIPE)
