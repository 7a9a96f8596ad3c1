"""Long clips: windows in seconds, what they share through the codec, jumps where they meet."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from ovi_lab.checkpoints.presets import released_model
from ovi_lab.codecs.block_pca import BlockPCA
from ovi_lab.errors import UserError
from ovi_lab.sampling.bundle import Formats, released_formats
from ovi_lab.sampling.long_clips import seam_jumps, seams_of, shared_again, windows_of
from ovi_lab.sampling.opening import open_bundle
from ovi_lab.sampling.seams import picture_jumps, sound_jumps

OVI = released_formats(released_model("ovi_720x720_5s"))
BALL = Formats(
    "ball", {"video": (24, 16, 2, 2), "audio": (81, 20)}, 32 / 2.025, 8000, (2, 8, 8), False, 200
)  # as a run's own codec has them
SOUND = dataclasses.replace(BALL, shapes={"audio": (81, 20)})


@pytest.mark.parametrize("formats", [OVI, BALL, SOUND])
@pytest.mark.parametrize(("seconds", "overlap"), [(15, None), (61.3, 0.5), (6, 1.9)])
def test_windows_in_seconds(formats: Formats, seconds: float, overlap: float | None) -> None:
    """Windows of the trained length, a clip of the wanted length, seams of both modalities at one time."""
    windows = windows_of(formats, seconds, overlap)
    assert windows.lengths == {m: s[1 if m == "video" else 0] for m, s in formats.shapes.items()}
    second = formats.sample_rate / formats.token_samples
    latent = formats.strides[0] / formats.fps
    seams = seams_of(windows, formats)
    if "video" in windows.lengths:
        total, alone = windows.total("video"), int(formats.first_frame_alone)
        frames = alone + (total - alone) * formats.strides[0]
        assert abs(frames / formats.fps - seconds) <= latent / 2 + 1e-9
        if windows.count > 2:  # the last one shares more
            shared = windows.overlap("video", 1) * latent
            assert shared == pytest.approx(overlap or formats.frames / formats.fps / 4, abs=latent)
        for picture, sound in zip(seams["video"], seams["audio"], strict=True):
            # the end of a window: its last token may end up to a token before its last frame
            assert abs(picture / formats.fps - sound / formats.sample_rate) < 1.5 / second
        first = (
            windows.starts["video"][1] * formats.strides[0] + formats.frames
        )  # of what the third window adds
        assert seams["video"][1:2] in ([], [first])
    else:
        assert windows.total("audio") / second == pytest.approx(seconds, abs=1 / second)


@pytest.mark.parametrize(
    ("seconds", "overlap", "message"),
    [
        (3, None, r"seconds=3 is shorter than the 5\.04 s of a clip of ovi_720x720_5s: leave it out"),
        (math.nan, None, "seconds=nan is shorter"),
        (15, 5.2, r"overlap=5\.2 s of windows of 5\.04 s: expected more than 0, and less than a window"),
        (15, 0.0, "overlap=0 s"),
    ],
)
def test_seconds_that_no_windows_make(seconds: float, overlap: float | None, message: str) -> None:
    with pytest.raises(UserError, match=message):
        windows_of(OVI, seconds, overlap)


@pytest.mark.slow
def test_what_windows_share_is_encoded_as_a_clip_s_beginning(small_ovi: Path) -> None:
    codec: Any = open_bundle(small_ovi).load().video
    again = shared_again(codec)
    assert again is not None
    latents = torch.randn(1, 48, 4, 2, 2, generator=torch.Generator().manual_seed(0))
    frames = codec.decode(latents)
    for shared in (1, 3):
        found = again(latents, shared)
        assert found.shape == (1, 48, shared, 2, 2)
        assert torch.equal(found, codec.encode(frames[:, -(4 * shared - 3) :]))
        # another beginning than the same frames have within the clip
        assert not torch.allclose(found[:, :, 0], codec.encode(frames)[:, :, -shared], atol=0.1)
    assert shared_again(BlockPCA()) is None


def moving(frames: int, jump: int | None) -> torch.Tensor:
    """A grey ramp that moves by one level a frame, from `jump` on 40 levels ahead."""
    level = torch.arange(frames) + torch.where(torch.arange(frames) >= (jump or frames), 40, 0)
    ramp = torch.arange(32)[None, None, :, None] + level[:, None, None, None]
    return ramp.expand(frames, 32, 32, 3).to(torch.uint8)


def test_a_jump_is_measured_where_there_is_one() -> None:
    ((smooth,), (cut,)) = (picture_jumps(moving(60, at), 24.0, [30]) for at in (None, 30))
    assert (smooth.ratio, cut.ratio) == pytest.approx((1.0, 41.0))
    assert cut.above == 1.0
    assert cut.seconds == 1.25
    rate, at = 16000, 16000
    time = torch.arange(2 * rate) / rate
    tone = 0.3 * torch.sin(2 * math.pi * (220 * time + 40 * time**2))
    click = torch.where(torch.arange(2 * rate) < at, tone, -tone)
    other = torch.where(torch.arange(2 * rate) < at, tone, 0.3 * torch.sin(2 * math.pi * 1500 * time))
    (even,), (turned,), (new,) = (sound_jumps(wave, rate, [at]) for wave in (tone, click, other))
    assert even.ratio < 1.5
    assert new.ratio > 5
    assert new.above == 1.0
    assert turned.seconds == 1.0


def test_the_seams_of_a_finished_clip() -> None:
    windows = windows_of(BALL, 5.0)
    at = seams_of(windows, BALL)
    frames = moving(windows.total("video") * 2, at["video"][1])
    wave = torch.randn(len(frames) * 1000, generator=torch.Generator().manual_seed(0))
    jumps = seam_jumps(windows, BALL, frames, wave)
    expected = [41.0 if n == 1 else 1.0 for n in range(len(at["video"]))]
    assert [j.ratio for j in jumps["video"]] == pytest.approx(expected)
    assert len(jumps["audio"]) == windows.count - 1
    assert all(0.6 < j.ratio < 1.6 for j in jumps["audio"])  # noise changes everywhere alike


def test_a_picture_that_stands_still() -> None:
    still = torch.zeros(10, 4, 4, 3, dtype=torch.uint8)
    assert picture_jumps(still, 8.0, [5])[0].ratio == 1.0
    still[5:] = 9
    assert picture_jumps(still, 8.0, [5])[0].ratio == math.inf
