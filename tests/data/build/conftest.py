"""Small videos, their recipe, what one process builds of them, and a store that holds them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.object_store import ObjectStore, s3_store
from helpers.small_videos import RECIPE, digests, moving, write
from ovi_lab.data.build import store_lock
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


@pytest.fixture(autouse=True)
def locks_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_lock, "SETTLE_S", 0.0)


@pytest.fixture
def store(videos: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectStore]:
    """The small videos with their texts, in a store without patience."""
    pytest.importorskip("s3fs")
    monkeypatch.setenv("OVI_DATA_RETRIES", "1")
    with s3_store(videos, "videos", monkeypatch) as server:
        yield server
