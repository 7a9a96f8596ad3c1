"""Small shards of the ball world, and the codec fitted on them."""

from pathlib import Path

import pytest

from ovi_lab.codecs import LatentCodec
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
