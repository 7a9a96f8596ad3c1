"""Temporal flickering equals VBench's on a real clip and its definition on made-up ones."""

import json
from pathlib import Path

import pytest
import torch

from ovi_eval.clips.clipset import ClipSet
from ovi_eval.clips.items import FileItem, Item, MemoryItem
from ovi_eval.errors import UserError
from ovi_eval.metrics.temporal_flickering import FrameDifferences, TemporalFlickering


def in_memory(frames_THWC: torch.Tensor) -> Item:
    return MemoryItem(ClipSet(["a"], [""], frames_THWC[None], 24.0, torch.zeros(1, 800), 8000, [{}]), 0)


def score(item: Item) -> float:
    extractor = FrameDifferences()
    return TemporalFlickering().measure(extractor.run(extractor.load(item)))[0]


def test_a_real_clip_gives_vbenchs_number(shared_dir: Path, goldens: Path) -> None:
    golden = json.loads((goldens / "face_vbench_wer.json").read_text(encoding="utf-8"))
    golden = golden["vbench_temporal_flickering_ltx2"]
    item = FileItem(shared_dir / "clips" / "ltx2" / "ltx2.mp4", "ltx2")
    assert score(item) == pytest.approx(golden["computed_here"], abs=1e-6)
    assert item._video is None, "the frames of a file need not be kept"
    # FastVideo's own figure, of another decoder
    assert score(item) == pytest.approx(golden["fastvideo_reference"], abs=5e-5)
    item.video()
    assert score(item) == pytest.approx(golden["computed_here"], abs=1e-6), (
        "frames that are there are looked at"
    )


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


def test_what_has_no_picture_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(b"RIFF")
    with pytest.raises(UserError, match=r"a\.wav: cannot be decoded"):
        score(FileItem(path, "a"))
