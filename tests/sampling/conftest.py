"""A whole small Ovi, made once: what the tests of sampling run on."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from ovi_lab.released.small import write_small


@pytest.fixture(scope="session")
def small_ovi(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in the released layout; leave it as it is."""
    return write_small(tmp_path_factory.mktemp("small_ovi") / "weights", area=(64, 64))


@pytest.fixture
def own_ovi(small_ovi: Path, tmp_path: Path) -> Path:
    """A copy of it to break."""
    return Path(shutil.copytree(small_ovi, tmp_path / "weights"))


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
