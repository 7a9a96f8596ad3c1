"""What a worker holds: one clip at a time and no decoded frame beyond it, without waiting for the garbage collector."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import pytest
import torch

from helpers.small_videos import FRAMES, moving, write
from ovi_lab.data.build import items, reading
from ovi_lab.data.build.clip import Candidate
from ovi_lab.data.build.engine import Work, Worker
from ovi_lab.data.build.items import SourceFile
from ovi_lab.data.build.recipe import Recipe


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def held() -> int:
    """Frames of FFmpeg and tensors that are there."""
    return sum(type(thing) in (av.VideoFrame, av.AudioFrame, torch.Tensor) for thing in gc.get_objects())


@pytest.mark.slow
@pytest.mark.usefixtures("no_collector")
def test_one_clip_is_held_at_a_time(recipe: Recipe, tmp_path: Path, monkeypatch: Any) -> None:
    given: list[weakref.ref[Candidate]] = []
    while_decoding: list[int] = []
    while_judging: list[int] = []
    scored, fit_frame = items._scored, reading.fit_frame

    def alive() -> int:
        return sum(ref() is not None for ref in given)

    def watched_scored(clip: Candidate, steps: Any) -> Any:
        given.append(weakref.ref(clip))
        while_judging.append(alive())
        return scored(clip, steps)

    def watched_fit(*arguments: Any) -> Any:
        while_decoding.append(alive())
        return fit_frame(*arguments)

    monkeypatch.setattr(items, "_scored", watched_scored)
    monkeypatch.setattr(reading, "fit_frame", watched_fit)
    worker, after = Worker(Work(tmp_path, recipe)), []
    for number in range(3):
        file = write(tmp_path / "videos" / f"v{number}.mp4", moving(number, 3 * FRAMES))
        assert len(worker(SourceFile(file, file.name, file.stem)).clips) == 3
        after.append(held())
    assert while_judging == [1] * 9
    assert len(while_decoding) == 9 * FRAMES
    assert set(while_decoding) == {0}
    assert after[2] == after[1]
