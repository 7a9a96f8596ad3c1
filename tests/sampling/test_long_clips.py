"""Long clips: windows in seconds, what they share through the codec, jumps where they meet."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from helpers import media_makers
from ovi_lab.checkpoints.presets import released_model
from ovi_lab.codecs.block_pca import BlockPCA
from ovi_lab.errors import UserError
from ovi_lab.flow import SamplerSettings
from ovi_lab.sampling.batch import record_of
from ovi_lab.sampling.bundle import Formats, released_formats
from ovi_lab.sampling.long_clips import seam_jumps, seams_of, shared_again, windows_of
from ovi_lab.sampling.opening import open_bundle
from ovi_lab.sampling.pipeline import OviPipeline, plan_request
from ovi_lab.sampling.requests import Request, check_request, read_requests
from ovi_lab.sampling.seams import picture_jumps, sound_jumps

OVI = released_formats(released_model("ovi_720x720_5s"))
BALL = Formats(
    "ball", {"video": (24, 16, 2, 2), "audio": (81, 20)}, 32 / 2.025, 8000, (2, 8, 8), False, 200
)  # as a run's own codec has them
SOUND = replace(BALL, shapes={"audio": (81, 20)})


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


# ---- through the pipeline

LENGTH = 7 / 31
"""Of the released clips': windows of 25 frames in 7 latent frames, 35 tokens."""


@pytest.fixture(scope="module")
def pipeline(small_ovi: Path) -> OviPipeline:
    settings = SamplerSettings(steps=1, video_guidance=1.0, audio_guidance=1.0)
    return OviPipeline.load(open_bundle(small_ovi, length=LENGTH), settings)


@pytest.mark.slow
def test_a_long_clip_of_the_small_ovi(pipeline: OviPipeline) -> None:
    """Its first window is the ordinary clip; further ones have their own prompts; all is decoded in one piece."""
    steps: list[tuple[int, int]] = []
    request = Request("a", "it rains ||| it snows", seed=3, seconds=2.6, overlap=0.2)
    plan = pipeline.plan(request)
    assert plan.windows is not None
    assert plan.windows.starts == {"video": (0, 5, 9), "audio": (0, 26, 47)}
    assert plan.texts == ["it rains", "it snows", "it snows"]
    assert plan.frames == 61
    clip = pipeline.make(plan, lambda done, total: steps.append((done, total)))
    assert steps == [(1, 3), (2, 3), (3, 3)]
    assert clip.frames_THWC.shape == (61, 64, 64, 3)
    assert len(clip.wave_S) == round(61 / 24 * 16000)
    ordinary = pipeline.make(pipeline.plan(replace(request, prompt="it rains", seconds=None, overlap=None)))
    assert torch.equal(clip.video_latents[:, :7], ordinary.video_latents)
    assert torch.equal(clip.audio_latents[:35], ordinary.audio_latents)
    other = pipeline.make(pipeline.plan(replace(request, prompt="it rains")))
    assert torch.equal(other.video_latents[:, :7], clip.video_latents[:, :7])
    assert not torch.allclose(other.video_latents[:, 7:], clip.video_latents[:, 7:], atol=1e-3)
    jumps = seam_jumps(plan.windows, pipeline.parts.formats, clip.frames_THWC, clip.wave_S)
    assert [round(j.seconds * 24) for j in jumps["video"]] == [25, 45]
    record = record_of(plan, pipeline.parts.formats, pipeline.settings, pipeline.options, {})
    assert record["windows"] == {"video": [0, 5, 9], "audio": [0, 26, 47]}
    assert record["read_as"] == "it rains|||it snows|||it snows"


@pytest.mark.slow
def test_a_long_clip_goes_on_from_a_file(pipeline: OviPipeline, tmp_path: Path) -> None:
    """Longer than a window: what is given costs no steps and stays."""
    times = np.arange(int(1.5 * 16000)) / 16000
    file = media_makers.clip(
        tmp_path / "start.mp4", seconds=1.5, wave_CS=(0.3 * np.sin(1400 * times))[None].astype(np.float32),
        fps=24, rate=16000, picture=lambda t: np.full((64, 64, 3), 90 + 40 * t, np.uint8),
    )  # fmt: skip
    plan = pipeline.plan(Request("a", "it rains", seed=3, start=file, seconds=2.6, keep_given=False))
    steps: list[tuple[int, int]] = []
    clip = pipeline.make(plan, lambda done, total: steps.append((done, total)))
    assert plan.given is not None
    assert steps[-1] == (len(steps), len(steps))
    assert len(steps) < plan.windows.count
    given, clean = pipeline.given(plan)
    assert torch.equal(clip.video_latents[:, given.video[0]], clean["video"][0][:, given.video[0]])
    assert torch.equal(clip.audio_latents[given.audio[0]], clean["audio"][0][given.audio[0]])
    assert clip.frames_THWC.shape[0] == plan.frames


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"prompt": "a ||| b"}, r"the prompt has \|\|\|, which stands between a long clip's windows: give seconds"),
        ({"overlap": 1.0}, "overlap is of a long clip's windows: give seconds too"),
        ({"prompt": "a ||| ", "seconds": 9.0}, r"a window has no prompt: write one on each side of \|\|\|"),
        ({"prompt": "a ||| <S>b", "seconds": 9.0}, "<S>"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_long_request(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_request(Request(**{"id": "a", "prompt": "a", **fields}))


def test_more_prompts_than_windows_and_clips_beyond_any(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match="the prompt has texts of 3 windows, and the clip has 2: leave some out"
    ):
        plan_request(Request("a", "a ||| b ||| c", seconds=8.0), OVI)
    with pytest.raises(UserError, match="more than any clip that is made here"):
        plan_request(Request("a", "a", seconds=3600), OVI)
    with pytest.raises(UserError, match="seconds is '9': expected a number of seconds"):
        plan_request(Request("a", "a", seconds="9"), OVI)  # type: ignore[arg-type]
    table = tmp_path / "prompts.csv"
    table.write_text("text_prompt,seconds,overlap\na ||| b,15,1.5\nc,,\nd,long,\n")
    requests, bad = read_requests(table)
    assert [(r.seconds, r.overlap, r.texts) for r in requests] == [
        (15.0, 1.5, ("a", "b")),
        (None, None, ("c",)),
    ]
    assert "its seconds is 'long', expected a number" in bad[0].reason
