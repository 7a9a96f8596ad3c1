"""Runs that several tests of this folder look at, made once."""

import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from helpers.run_folders import small_config
from ovi_lab.common.progress import SilentReporter
from ovi_lab.runs.run import execute


@pytest.fixture(scope="session")
def made_run(data_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """The small run of some overrides; leave it as it is."""

    @cache
    def make(*overrides: str) -> Path:
        run = tmp_path_factory.mktemp("made") / "run"
        assert execute(small_config(overrides, run, data_root), SilentReporter()) == "done"
        return run

    return make


@pytest.fixture
def copied_run(made_run: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    """A copy of it to change."""

    def copy(*overrides: str) -> Path:
        return Path(shutil.copytree(made_run(*overrides), tmp_path / "copy", symlinks=True))

    return copy
