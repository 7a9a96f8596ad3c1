"""A world of a few clips, and runs composed as the command line composes them."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

from ovi_lab.paths import config_dir
from ovi_lab.runs.progress import SilentReporter
from ovi_lab.runs.run import execute

SMALL = (
    "debug=fast",
    "logger.tensorboard=false",
    "evaluation.num_clips=6",
    "evaluation.num_mp4=1",
    "sampler.steps=2",
)


@pytest.fixture(scope="session")
def data_root(tmp_path_factory) -> Path:
    """Where the small world is made once."""
    return tmp_path_factory.mktemp("data")


@pytest.fixture
def composed(data_root, tmp_path) -> Callable[..., DictConfig]:
    """The configuration of overrides, in a run folder of its own."""

    def make(overrides: Sequence[str], run_dir: Path | None = None) -> DictConfig:
        GlobalHydra.instance().clear()
        small = [s for s in SMALL if not s.startswith("evaluation.") or "evaluation=ball" in overrides]
        place = [f"run_dir={run_dir or tmp_path / 'run'}", f"data.root={data_root}"]
        with initialize_config_dir(str(config_dir()), version_base="1.3"):
            return compose("train", overrides=[*overrides, *small, *place])

    return make


@pytest.fixture
def trained(composed) -> Callable[..., Path]:
    """Run overrides; the run's folder."""

    def make(overrides: Sequence[str], run_dir: Path | None = None) -> Path:
        config = composed(overrides, run_dir)
        execute(config, SilentReporter())
        return Path(config.run_dir)

    return make
