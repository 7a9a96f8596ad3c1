"""The pair of codecs and its file."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ovi_lab.codecs import LatentCodec, codec_class
from ovi_lab.codecs.pair import default_codec
from ovi_lab.data.worlds import get_world
from ovi_lab.errors import UserError

WORLD = get_world("bouncing_ball")


@pytest.fixture(scope="module")
def clips():
    return WORLD.render(range(32), seed=1)


@pytest.fixture(scope="module")
def codec(clips) -> LatentCodec:
    codec = default_codec(WORLD.fps, 8000, WORLD.partials_hz)
    codec.fitted_on = {"world": "bouncing_ball", "seed": 1}
    return codec.fit([(clips.frames_NTHWC, clips.waves_NS)])


def test_a_saved_codec_is_the_same_codec(codec, clips, tmp_path: Path) -> None:
    codec.save(tmp_path / "codec.safetensors")
    loaded = LatentCodec.load(tmp_path / "codec.safetensors")
    assert (loaded.fps, loaded.sample_rate, loaded.fitted_on) == (codec.fps, 8000, codec.fitted_on)
    for a, b in zip(
        codec.encode(clips.frames_NTHWC, clips.waves_NS),
        loaded.encode(clips.frames_NTHWC, clips.waves_NS),
        strict=True,
    ):
        assert torch.equal(a, b)
    video, audio = codec.encode(clips.frames_NTHWC[:4], clips.waves_NS[:4])
    for a, b in zip(codec.decode(video, audio), loaded.decode(video, audio), strict=True):
        assert torch.equal(a, b)
    assert [f.name for f in tmp_path.iterdir()] == ["codec.safetensors"]


def test_fitting_twice_gives_the_same_file(codec, clips, tmp_path: Path) -> None:
    again = default_codec(WORLD.fps, 8000, WORLD.partials_hz)
    again.fitted_on = codec.fitted_on
    again.fit([(clips.frames_NTHWC, clips.waves_NS)])
    codec.save(tmp_path / "a.safetensors")
    again.save(tmp_path / "b.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_shapes_are_known_before_any_clip(codec, clips) -> None:
    video, audio = codec.encode(clips.frames_NTHWC, clips.waves_NS)
    assert codec.latent_shapes(32, 16, 16) == {
        "video": tuple(video.shape[1:]),
        "audio": tuple(audio.shape[1:]),
    }


def test_longer_latents_decode_to_sound_as_long_as_the_picture(codec) -> None:
    frames, waves = codec.decode(torch.zeros(1, 24, 24, 2, 2), torch.zeros(1, 121, 12))
    assert frames.shape == (1, 48, 16, 16, 3)
    assert waves.shape == (1, 24300)


def test_files_that_are_no_codec_are_refused(codec, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no codec at .*fit-codec"):
        LatentCodec.load(tmp_path / "none.safetensors")
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match="has the format None"):
        LatentCodec.load(tmp_path / "other.safetensors")
    codec.save(tmp_path / "whole.safetensors")
    content = (tmp_path / "whole.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="not a whole codec"):
        LatentCodec.load(tmp_path / "cut.safetensors")


def test_unknown_kinds_are_refused_with_those_there_are() -> None:
    with pytest.raises(UserError, match="no video codec is called 'jpeg'; there is block_pca"):
        codec_class("video", "jpeg")
    with pytest.raises(UserError, match="no audio codec is called 'mp3'; there is band_vocoder"):
        codec_class("audio", "mp3")
