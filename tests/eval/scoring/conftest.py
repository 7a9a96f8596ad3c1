"""Two folders of small clips, and a count of how often the networks ran."""

from pathlib import Path

import pytest

from helpers.small_metrics import Levels, write_clips


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clips(tmp_path_factory.mktemp("made") / "clips", 7)


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clips(tmp_path_factory.mktemp("real") / "clips", 9, seed=1)


@pytest.fixture(autouse=True)
def _no_runs() -> None:
    Levels.runs.clear()
