"""Of a file that is cut off or damaged, the clips before that place are those of the whole file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.media_makers import clip, half, remuxed
from helpers.small_videos import FPS, FRAMES, RECIPE, moving, noise, write
from ovi_eval.clips.picture import PictureStream
from ovi_lab.data.build.engine import Work, Worker
from ovi_lab.data.build.items import FinishedSource, SourceFile, wav_bytes
from ovi_lab.data.build.recipe import read_recipe

SCENES = 6


def judged(file: Path, work: Path, **plain: Any) -> FinishedSource:
    work.mkdir(exist_ok=True)
    recipe = read_recipe("planted", {**RECIPE, "keep": {}, "duplicates": {}, **plain})
    return Worker(Work(work, recipe))(SourceFile(file, file.name, "a"))


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six scenes of a clip and a quarter, with frames that are stored in another order than they are seen in."""
    return write(tmp_path_factory.mktemp("film") / "film.mp4", pictures())


def pictures() -> torch.Tensor:
    return torch.cat([moving(seed, FRAMES * 5 // 4) for seed in range(SCENES)])


def other(film: Path, path: Path) -> Path:
    """The film in a container: itself, its packets, or coded anew where the container does not take them."""
    if path.suffix == film.suffix:
        return film
    if path.suffix != ".avi":
        return remuxed(film, path)
    frames_THWC = pictures().numpy()
    coded: dict[str, Any] = {"video": "mpeg4", "audio": "libmp3lame", "rate": 16_000}

    def reordered(stream: Any) -> None:
        stream.codec_context.max_b_frames = 2

    return clip(
        path,
        seconds=len(frames_THWC) / FPS,
        fps=FPS,
        picture=lambda time: frames_THWC[round(time * FPS)],
        wave_CS=noise(len(frames_THWC) / FPS, 0, 16_000).numpy()[None],
        set_up=reordered,
        **coded,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "shares"),
    # more than half of this avi is what follows its frames
    [("mp4", (0.3, 0.55, 0.8, 0.95)), ("mkv", (0.3, 0.55, 0.8, 0.95)), ("avi", (0.12, 0.2, 0.3, 0.4))],
)
def test_clips_before_the_cut_are_those_of_the_whole_file(
    kind: str, shares: tuple[float, ...], film: Path, tmp_path: Path
) -> None:
    file = other(film, tmp_path / f"film.{kind}")
    whole = judged(file, tmp_path / "whole")
    assert whole.failed is None
    assert len(whole.clips) == SCENES
    found = []
    for share in shares:
        part = half(file, share)
        item = judged(part, tmp_path / "work")
        part.unlink()
        assert item.failed is not None
        assert "is cut off or damaged" in item.failed
        expected = whole.clips[: len(item.clips)]
        for name in ("key", "start_s", "sha256"):
            assert [clip[name] for clip in item.clips] == [clip[name] for clip in expected]
        found.append(len(item.clips))
    assert found == sorted(found)
    assert 1 <= found[1] < SCENES
    assert found[3] >= SCENES - 2


@pytest.mark.slow
def test_a_file_that_is_cut_before_its_first_clip_ends_says_so(film: Path, tmp_path: Path) -> None:
    item = judged(half(film, 0.12), tmp_path / "work")
    assert item.clips == []
    assert item.failed is not None
    assert "is cut off or damaged" in item.failed
    assert "before that its longest scene lasts 0." in item.failed


@pytest.mark.slow
def test_clips_before_a_damage_are_used(film: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """The damage is an error of the decoder's, which most damaged streams do not give: it conceals them."""
    whole = judged(film, tmp_path / "whole")
    upright = PictureStream._next
    count = 0

    def failing(self: PictureStream, decoded: Any) -> Any:
        nonlocal count
        count += 1
        return upright(self, iter(BrokenStream()) if len(self._times) == 50 else decoded)

    class BrokenStream:
        def __iter__(self) -> Any:
            raise ValueError("invalid data")
            yield

    monkeypatch.setattr(PictureStream, "_next", failing)
    item = judged(film, tmp_path / "work")
    assert item.failed is not None
    assert "cannot be decoded (invalid data)" in item.failed
    assert [clip["sha256"] for clip in item.clips] == [clip["sha256"] for clip in whole.clips[:2]]


@pytest.mark.slow
def test_sound_before_the_cut_is_used(tmp_path: Path) -> None:
    form = {**RECIPE["clips"], "frames": None, "min_seconds": 0.5, "max_seconds": 1.0}
    plain = {"clips": form, "steps": ["loudness"]}
    file = tmp_path / "a.wav"
    file.write_bytes(wav_bytes(noise(5.0), 8000))
    whole = judged(file, tmp_path / "whole", **plain)
    assert [clip["scores"]["seconds"] for clip in whole.clips] == [1.0] * 5
    item = judged(half(file, 0.55), tmp_path / "work", **plain)
    assert item.failed is not None
    assert "bytes that it states are there" in item.failed
    assert [clip["sha256"] for clip in item.clips[:2]] == [clip["sha256"] for clip in whole.clips[:2]]
    assert len(item.clips) == 3
    assert 0.6 < item.clips[2]["scores"]["seconds"] <= 0.76
