"""Face crops as SyncNet's release reads them, blue first and through JPEG, and files that are none."""

from pathlib import Path

import pytest
import torch

from ovi_eval.backbones.syncnet_crop import read_crop, to_int16
from ovi_eval.check.generated import clip, wave
from ovi_eval.clips.picture import decode_video
from ovi_eval.clips.writing import write_mp4
from ovi_eval.errors import UserError


def written(path: Path, frames: int = 12, side: int = 224, fps: float = 25.0) -> Path:
    sound = torch.from_numpy(wave(16000, frames / fps)).float() / 32768
    return write_mp4(path, torch.from_numpy(clip(frames, side, side)), fps, sound, 16000)


def test_a_crop_is_read_through_jpeg_blue_first(tmp_path: Path) -> None:
    path = written(tmp_path / "crop.mp4")
    crop, rgb_FHWC = read_crop(path), decode_video(path).frames_THWC.float()
    assert crop.frames_FHWC.shape == rgb_FHWC.shape == (12, 224, 224, 3)
    assert len(crop.wave_S) == pytest.approx(12 * 640, abs=1024)
    away, swapped = ((crop.frames_FHWC - other).abs().mean() for other in (rgb_FHWC.flip(-1), rgb_FHWC))
    assert 0 < float(away) < 40  # a pattern this busy suffers at 200 kbit/s
    assert away < swapped
    assert torch.equal(crop.frames_FHWC, read_crop(path).frames_FHWC)


def test_sound_becomes_16_bit_numbers() -> None:
    found = to_int16(torch.tensor([0.0, 1.0, -1.0, 1.5, 1 / 32768, 0.4 / 32768, -0.6 / 32768]))
    assert found.tolist() == [0, 32767, -32768, 32767, 1, 0, -1]


def test_faults_are_reported(tmp_path: Path) -> None:
    (tmp_path / "bad.mp4").write_bytes(b"no clip")
    for path, text in (
        (tmp_path / "none.mp4", "no such file"),
        (tmp_path / "bad.mp4", "cannot be decoded"),
        (written(tmp_path / "small.mp4", side=128), "is 256x256 at 25 fps; a face crop is 224x224 at 25"),
        (written(tmp_path / "slow.mp4", fps=24.0), "is 224x224 at 24 fps"),
    ):
        with pytest.raises(UserError, match=text):
            read_crop(path)
