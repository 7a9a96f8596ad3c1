"""Fixtures that every test may use."""

from __future__ import annotations

import gc
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from helpers.browser import launched, missing
from ovi_eval.common.compiled import own_compiled_code

if TYPE_CHECKING:
    from omegaconf import DictConfig
    from playwright.sync_api import Browser

own_compiled_code()  # before any test imports librosa

ROOT = Path(__file__).resolve().parent.parent
GOLDENS = Path(__file__).resolve().parent / "goldens"
LONGEST = ("test_equivalence.py", "test_killed.py", "test_command_line.py", "test_accumulation.py")


def pytest_collectstart() -> None:
    gc.disable()  # all that is imported stays: to look for garbage in it takes a quarter of the time


def pytest_collection_finish() -> None:
    gc.set_threshold(10_000, 10, 10)
    gc.enable()
    gc.freeze()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """After each file: what it leaves, such as modules, is not looked through again and again in the next ones."""
    if nextitem is None or nextitem.path != item.path:
        gc.collect()
        gc.freeze()


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Removes the generated weights of the run, 2 GB that pytest would keep for three runs."""
    if not hasattr(
        session.config, "workerinput"
    ):  # not in a process of pytest-xdist, whose siblings may still run
        base = session.config._tmp_path_factory.getbasetemp()
        shutil.rmtree(base / "generated_weights", ignore_errors=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, then those with slow tests, so that no test process ends with a long one alone."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: (item.path.name not in LONGEST, item.path not in slow))


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    # Tiny tensors are slower on several threads, and sums stay the same from machine to machine.
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Chromium without a window; a test that needs it is skipped where there is none."""
    if (reason := missing()) is not None:
        pytest.skip(reason)
    with launched() as window:
        yield window


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder of clips and weights beside the checkout; tests that need it are skipped elsewhere."""
    path = ROOT.parent / "shared"
    if not path.is_dir():
        pytest.skip("no ../shared beside this checkout: the clips and weights this test reads are not here")
    return path


@pytest.fixture(scope="session")
def goldens() -> Path:
    """Numbers from reference implementations, kept beside the tests."""
    return GOLDENS


@pytest.fixture(scope="session")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the small worlds of the runs are made, each once, by whichever of the test processes comes first."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "worlds"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture
def composed(data_root: Path, tmp_path: Path) -> Callable[..., DictConfig]:
    """The configuration of a small run with overrides, in a folder of its own."""
    from helpers.run_folders import small_config

    def make(overrides: Sequence[str], run_dir: Path | None = None) -> DictConfig:
        return small_config(overrides, run_dir or tmp_path / "run", data_root)

    return make


@pytest.fixture
def trained(composed: Callable[..., DictConfig]) -> Callable[..., Path]:
    """Run overrides; the run's folder."""
    from ovi_lab.common.progress import SilentReporter
    from ovi_lab.runs.run import execute

    def make(overrides: Sequence[str], run_dir: Path | None = None) -> Path:
        config = composed(overrides, run_dir)
        execute(config, SilentReporter())
        return Path(config.run_dir)

    return make


@pytest.fixture(scope="session")
def small_ovi(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole small Ovi in the released layout, made once; leave it as it is."""
    from ovi_lab.sampling.small_weights import write_small

    return write_small(tmp_path_factory.mktemp("small_ovi") / "weights", area=(64, 64))


@pytest.fixture
def own_ovi(small_ovi: Path, tmp_path: Path) -> Path:
    """A copy of it to break."""
    return Path(shutil.copytree(small_ovi, tmp_path / "weights"))


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty cache folder of the user, so that no digest of an earlier test is known."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
