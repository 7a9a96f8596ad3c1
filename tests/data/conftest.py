"""Small shards of the ball world, and the codec fitted on them."""

import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from ovi_lab.codecs import LatentCodec
from ovi_lab.data.cli import main
from ovi_lab.data.prepare import WorldSettings, prepare_world, shards_of


@pytest.fixture(scope="session")
def world_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole small data set: 48 clips to train on, 8 to evaluate on."""
    settings = WorldSettings("bouncing_ball", num_train=48, num_eval=8)
    return prepare_world(settings, tmp_path_factory.mktemp("world"), quiet=True)


@pytest.fixture(scope="session")
def media_shard(world_folder: Path) -> Path:
    return shards_of(world_folder, "train", "media")[0]


@pytest.fixture(scope="session")
def latents_shard(world_folder: Path) -> Path:
    return shards_of(world_folder, "train", "latents")[0]


@pytest.fixture(scope="session")
def codec(world_folder: Path) -> LatentCodec:
    return LatentCodec.load(world_folder / "codec.safetensors")


@pytest.fixture
def ovi_data(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """`ovi-data` in this process: what it prints, without line breaks; its exit code must be `code`."""

    def run(*arguments: object, code: int = 0) -> str:
        for handler in logging.root.handlers[:]:  # of an earlier test, whose standard error is closed
            if getattr(getattr(handler, "stream", None), "closed", False):
                logging.root.removeHandler(handler)
        found = main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        assert found == code, err
        assert "Traceback" not in err
        assert code != 2 or err.splitlines()[-1].startswith("ovi-data: ")
        return " ".join((out + err).split())

    return run
