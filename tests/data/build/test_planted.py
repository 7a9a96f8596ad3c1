"""Each planted fault is found by the score that is for it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.small_videos import FPS, FRAMES, RATE, SIDE, moving, noise, write
from ovi_eval.clips.writing import write_mp4
from ovi_lab.data.build.assemble import Built
from ovi_lab.data.build.build import BuildOptions, build
from ovi_lab.data.build.recipe import Recipe
from ovi_lab.data.decode import read_media
from ovi_lab.data.index import read_index
from ovi_lab.data.shards import ShardReader

QUIET = BuildOptions(quiet=True)


def low(seconds: float) -> torch.Tensor:
    """Noise below 1 kHz in a file of 8 kHz."""
    spectrum = torch.fft.rfft(noise(seconds))
    hz = torch.fft.rfftfreq(round(seconds * RATE), 1 / RATE)
    return torch.fft.irfft(torch.where(hz < 1000, spectrum, 0), round(seconds * RATE)) * 2


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One file of each kind; `good` is of none."""
    folder = tmp_path_factory.mktemp("videos")
    good = moving(1)
    write(folder / "good.mp4", good)
    write(
        folder / "again" / "good_again.mp4",
        good.repeat_interleave(2, 1).repeat_interleave(2, 2),
        noise(1.25, 77),
    )
    write(folder / "scenes.mp4", torch.cat([moving(s, 20) for s in (2, 3, 4)]))
    write(folder / "still.mp4", moving(5)[:1].repeat(20, 1, 1, 1))
    bars = torch.zeros(20, SIDE + 32, SIDE, 3, dtype=torch.uint8)
    bars[:, 16:-16] = moving(6)
    write(folder / "bars.mp4", bars)
    write(folder / "silent.mp4", moving(7), torch.zeros(RATE * 5 // 4))
    write_mp4(folder / "no_track.mp4", moving(15), FPS, None, RATE, enlarge_to=0)
    gap = noise(1.25)
    gap[RATE // 4 : RATE] = 0
    write(folder / "gap.mp4", moving(8), gap)
    write(folder / "telephone.mp4", moving(9), low(1.25))
    write(folder / "short.mp4", moving(10, 8))
    write(folder / "small.mp4", moving(11, side=24))
    whole = write(folder / "cut_off.mp4", torch.cat([moving(12), moving(13), moving(14)])).read_bytes()
    (folder / "cut_off.mp4").write_bytes(whole[: len(whole) // 2])
    (folder / "no_video.mp4").write_bytes(b"not a video")
    return folder


@pytest.fixture(scope="module")
def built(
    planted: Path, recipe: Recipe, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Built, dict[str, Any], Path]:
    out = tmp_path_factory.mktemp("out")
    made, _ = build(planted, out, recipe, QUIET)
    rows = [json.loads(line) for line in (out / "clips.jsonl").read_text().splitlines()]
    return made, {row["key"]: row for row in rows}, out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("key", "dropped_by"),
    [
        ("good-000", None),
        ("again/good_again-000", "duplicate"),
        ("still-000", "still_share"),
        ("silent-000", "mean_volume"),
        ("no_track-000", "mean_volume"),
        ("gap-000", "silence_share"),
        ("telephone-000", "bandwidth"),
        ("small-000", "pixels"),
    ],
)
def test_a_fault_is_found_by_its_score(built: Any, key: str, dropped_by: str | None) -> None:
    _, rows, _ = built
    row = rows[key]
    if key in ("good-000", "again/good_again-000"):  # which of the two comes first is the order of names
        assert [r for r in ("again/good_again-000", "good-000") if rows[r]["kept"]] == [
            "again/good_again-000"
        ]
        assert rows["good-000"]["duplicate_of"] == "again/good_again-000"
    else:
        assert not row["kept"]
        assert row["dropped_by"][0] == dropped_by
        if key == "no_track-000":
            assert row["scores"]["mean_volume"] is row["scores"]["silent_padding"] is None


@pytest.mark.slow
def test_scenes_bars_and_files_that_are_none(built: Any) -> None:
    made, rows, _ = built
    starts = [rows[f"scenes-{n:03d}"]["start_s"] for n in range(3)]
    assert starts == pytest.approx([0, 20 / FPS, 40 / FPS])
    assert all(
        rows[f"scenes-{n:03d}"]["scores"]["scene_seconds"] == pytest.approx(20 / FPS) for n in range(3)
    )
    assert rows["bars-000"]["scores"]["pixels"] == SIDE * SIDE
    assert rows["bars-000"]["facts"]["source_size"] == [SIDE + 32, SIDE]
    assert set(made.failed) == {"short.mp4", "cut_off.mp4", "no_video.mp4"}
    assert "lasts 0.50 s; a clip needs 1.00 s" in made.failed["short.mp4"]
    assert "is cut off or damaged" in made.failed["cut_off.mp4"]
    assert [key for key in rows if key.startswith("cut_off")] == ["cut_off-000"]
    assert made.clips == len(rows)


@pytest.mark.slow
def test_shards_train_and_say_where_they_come_from(built: Any) -> None:
    made, rows, out = built
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["clips"]["all"] == len(rows)
    (shard,) = made.shards
    entries = read_index(shard).entries
    assert {e.key for e in entries} == {key for key, row in rows.items() if row["kept"]}
    clip = read_media(ShardReader().read(entries[0]))
    assert clip.frames_THWC.shape == (FRAMES, SIDE, SIDE, 3)
    assert len(clip.wave_S) / clip.sample_rate == pytest.approx(1.0, abs=0.03)
    for line in (out / "SHA256SUMS").read_text().splitlines():
        digest, name = line.split("  ")
        assert hashlib.sha256((out / name).read_bytes()).hexdigest() == digest
