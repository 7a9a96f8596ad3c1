"""Small videos, their recipe, and what one process builds of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.small_videos import RECIPE, digests, moving, write
from ovi_lab.data.build.build import BuildOptions, build
from ovi_lab.data.build.recipe import Recipe, read_recipe


@pytest.fixture(scope="session")
def recipe() -> Recipe:
    return read_recipe("planted", RECIPE)


@pytest.fixture(scope="session")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    for seed in range(4):
        write(folder / f"v{seed}.mp4", moving(seed))
        (folder / f"v{seed}.txt").write_text(f"video {seed}")
    return folder


@pytest.fixture(scope="session")
def once(videos: Path, recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    out = tmp_path_factory.mktemp("once")
    build(videos, out, recipe, BuildOptions(quiet=True))
    return digests(out)
