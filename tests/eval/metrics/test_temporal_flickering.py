"""Temporal flickering is its definition, of files and of frames in memory."""

from pathlib import Path

import pytest
import torch

from ovi_eval.check.generated import clip
from ovi_eval.clips.clipset import ClipSet
from ovi_eval.clips.items import FileItem, Item, MemoryItem
from ovi_eval.clips.writing import write_mp4
from ovi_eval.errors import UserError
from ovi_eval.metrics.temporal_flickering import FrameDifferences, TemporalFlickering


def in_memory(frames_THWC: torch.Tensor) -> Item:
    return MemoryItem(ClipSet(["a"], [""], frames_THWC[None], 24.0, torch.zeros(1, 800), 8000), 0)


def score(item: Item) -> float:
    extractor = FrameDifferences()
    return TemporalFlickering().measure(extractor.run(extractor.load(item)))[0]


def test_frames_of_a_file_are_not_kept_and_those_that_are_there_are_looked_at(tmp_path: Path) -> None:
    frames_THWC = torch.from_numpy(clip(6, 48, 64))
    item = FileItem(write_mp4(tmp_path / "a.mp4", frames_THWC, 24.0, torch.rand(8000), 16000), "a")
    found = score(item)
    assert item._video is None
    kept = item.video().frames_THWC
    assert found == score(item) == pytest.approx(score(in_memory(kept)), abs=1e-12)


def test_made_up_clips_give_the_definition() -> None:
    generator = torch.Generator().manual_seed(2)
    frames_THWC = torch.randint(0, 256, (5, 6, 8, 3), dtype=torch.uint8, generator=generator)
    apart = (frames_THWC[1:].double() - frames_THWC[:-1].double()).abs().mean()
    assert score(in_memory(frames_THWC)) == pytest.approx(1 - float(apart) / 255, abs=1e-12)
    assert score(in_memory(torch.full((4, 6, 8, 3), 77, dtype=torch.uint8))) == 1
    black_and_white = torch.zeros(4, 6, 8, 3, dtype=torch.uint8)
    black_and_white[::2] = 255
    assert score(in_memory(black_and_white)) == 0


def test_a_single_frame_has_no_value() -> None:
    with pytest.raises(UserError, match="it has a single frame"):
        score(in_memory(torch.zeros(1, 6, 8, 3, dtype=torch.uint8)))
