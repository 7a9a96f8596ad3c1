"""Planted faults of time and place: a variable rate, a turned picture, sound that is late."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from helpers.media_makers import clip
from helpers.small_videos import write
from ovi_lab.data.build.build import BuildOptions, build
from ovi_lab.data.build.clip import Candidate
from ovi_lab.data.build.items import moved
from ovi_lab.data.build.recipe import read_recipe
from ovi_lab.data.build.steps.faces import LipSyncStep
from ovi_lab.data.decode import MediaClip, read_media
from ovi_lab.data.index import read_index
from ovi_lab.data.shards import ShardReader
from ovi_lab.data.worlds.bouncing_ball import BouncingBall
from ovi_lab.errors import UserError

QUIET = BuildOptions(quiet=True)
PLAIN: dict[str, Any] = {
    "clips": {"frames": 16, "fps": 16, "pixels": 64 * 64, "multiple": 16, "crop_bars": False},
    "without_caption": "empty",
}


def built(
    folder: Path, out: Path, plain: dict[str, Any], **options: bool
) -> tuple[list[Any], dict[str, MediaClip]]:
    """The lines of clips.jsonl, and the kept clips as training reads them."""
    made, _ = build(folder, out, read_recipe("mine", plain), BuildOptions(quiet=True, **options))
    rows = [json.loads(line) for line in (out / "clips.jsonl").read_text().splitlines()]
    entries = [entry for shard in made.shards for entry in read_index(shard).entries]
    return rows, {entry.key: read_media(ShardReader().read(entry)) for entry in entries}


@pytest.mark.slow
def test_frames_of_a_variable_rate_are_seen_at_their_own_times(tmp_path: Path) -> None:
    times = [n / 32 for n in range(20)] + [0.625 + n / 8 for n in range(6)]

    def level(time: float) -> int:
        return round(40 + 120 * time)

    (tmp_path / "videos").mkdir()
    clip(
        tmp_path / "videos" / "a.mp4",
        seconds=1.375,
        times=times,
        picture=lambda time: np.full((64, 64, 3), level(time), np.uint8),
    )
    (row,), clips = built(tmp_path / "videos", tmp_path / "out", PLAIN)
    assert row["facts"]["variable_rate"] is True
    found = clips["a-000"].frames_THWC.float().mean(dim=(1, 2, 3)).tolist()
    expected = [level(max(t for t in times if t <= n / 16 + 1e-3)) for n in range(16)]
    assert found == pytest.approx(expected, abs=3)


@pytest.mark.slow
def test_a_turned_picture_is_upright_in_the_shard(tmp_path: Path) -> None:
    stored = np.full((32, 64, 3), 60, np.uint8)
    stored[:, :32] = 230
    (tmp_path / "videos").mkdir()
    path = clip(tmp_path / "videos" / "a.mp4", seconds=1.2, picture=lambda time: stored)
    data = bytearray(path.read_bytes())
    box = data.index(b"tkhd")
    turned = [0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30]  # what is stored on the left is seen on top
    data[box + 44 : box + 80] = struct.pack(">9i", *turned)
    path.write_bytes(bytes(data))
    (row,), clips = built(tmp_path / "videos", tmp_path / "out", PLAIN)
    assert row["facts"]["source_size"] == [64, 32]
    frames_THWC = clips["a-000"].frames_THWC.float()
    height, width = frames_THWC.shape[1:3]
    assert height > width
    assert frames_THWC[:, : height // 2 - 2].mean() > 215
    assert frames_THWC[:, height // 2 + 2 :].mean() < 75


def late(wave_S: torch.Tensor, frames: float, rate: int) -> torch.Tensor:
    """The sound `frames` of 25 a second later, silence before it."""
    clip = Candidate("a", "a", 0.0, None, 25.0, wave_S, rate)
    return moved(wave_S, {"sync_offset": -frames}, clip)


@pytest.mark.slow
def test_sound_that_is_late_is_found_and_moved_back(tmp_path: Path) -> None:
    """Eight frames, by the ball world's SyncNet in the place of the real one, so that the truth is known."""
    world = BouncingBall()
    clips = world.render([1], 5)
    for name, frames in (("a_in_time", 0), ("b_late", 8)):
        large = clips.frames_NTHWC[0].repeat_interleave(4, 1).repeat_interleave(4, 2)
        wave_S = late(clips.waves_NS[0], frames, world.sample_rate)
        write(tmp_path / "videos" / f"{name}.mp4", large, wave_S, world.sample_rate, world.fps)
    form = {"frames": 32, "fps": world.fps, "pixels": 64 * 64, "multiple": 16, "sample_rate": 8000}
    plain: dict[str, Any] = {
        "clips": form,
        "steps": {"sync": {"judge": "ball_world"}},
        "without_caption": "empty",
    }
    bound = {"min": -3, "max": 3, "when": {"face_tracks": {"min": 1}}}
    rows, kept = built(tmp_path / "videos", tmp_path / "out", plain | {"keep": {"sync_offset": bound}})
    assert [row["scores"]["sync_offset"] for row in rows] == [0, 8]
    assert rows[0]["scores"]["sync_confidence"] > 0.3
    assert (list(kept), rows[1]["dropped_by"]) == (["a_in_time-000"], ["sync_offset"])

    mend = plain | {"keep": {"sync_offset": {**bound, "otherwise": "mend"}}}
    rows, kept = built(tmp_path / "videos", tmp_path / "out", mend, rescore=True)
    assert [row.get("mend") for row in rows] == [None, {"sync_offset": rows[1]["scores"]["sync_offset"]}]
    step = LipSyncStep(judge="ball_world")
    step.setup()
    for media in kept.values():
        again = Candidate("a", "a", 0.0, media.frames_THWC, media.fps, media.wave_S, media.sample_rate)
        assert abs(step.process([again])[0]["sync_offset"]) <= 1
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert list(manifest["steps"]["sync"]["weights"]) == ["ball_judges.safetensors"]


def test_a_silent_clip_of_the_ball_world_has_no_offset() -> None:
    world = BouncingBall().render(range(1), 5)
    step = LipSyncStep(judge="ball_world")
    assert step.missing() is None
    step.setup()
    silent = Candidate("a", "a", 0.0, world.frames_NTHWC[0], world.fps, torch.zeros(16200), 8000)
    assert step.process([silent]) == [{"face_tracks": 0.0, "sync_confidence": None, "sync_offset": None}]
    with pytest.raises(UserError, match="judge is 'ears'; expected one of syncnet, ball_world"):
        LipSyncStep(judge="ears")
