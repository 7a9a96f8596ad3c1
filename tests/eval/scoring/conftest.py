"""Two folders of small clips with their scores, and a count of how often the networks ran."""

from pathlib import Path

import pytest

from helpers.small_metrics import METRICS, QUICK, Levels, write_clips
from ovi_eval.clips.items import items_in
from ovi_eval.scoring.results_of import Scored
from ovi_eval.scoring.runner import score_items


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clips(tmp_path_factory.mktemp("made") / "clips", 7)


@pytest.fixture(scope="session")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clips(tmp_path_factory.mktemp("real") / "clips", 9, seed=1)


@pytest.fixture(scope="session")
def scored(made: Path, real: Path) -> Scored:
    """The first folder scored by all metrics, with the second as reference."""
    return score_items(items_in(made), items_in(real), METRICS, QUICK)


@pytest.fixture(autouse=True)
def _no_runs() -> None:
    Levels.runs.clear()
