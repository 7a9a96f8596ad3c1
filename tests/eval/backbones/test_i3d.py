"""FVD's preprocessing of upright and of many frames, and clips and variants that are refused."""

from typing import Any

import pytest
import torch
from torch import Tensor

from ovi_eval.backbones import i3d
from ovi_eval.check.generated import clip
from ovi_eval.errors import UserError


def frames(count: int, height: int, width: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(clip(count, height, width, seed))[None]


def test_upright_frames_are_preprocessed_as_wide_ones() -> None:
    wide = frames(16, 96, 160)
    upright = i3d.preprocess(wide.transpose(2, 3))[0]
    torch.testing.assert_close(upright.transpose(2, 3), i3d.preprocess(wide)[0], rtol=0, atol=2e-6)


@pytest.mark.parametrize("fit", ["crop", "stretch"])
def test_frames_are_resized_some_at_a_time_to_the_same_bits(
    monkeypatch: pytest.MonkeyPatch, fit: Any
) -> None:
    two = torch.cat([frames(11, 60, 100), frames(11, 60, 100, 1)])
    whole = i3d.preprocess(two, fit)
    for at_once in (1, 4 * 60 * 100 + 1):
        monkeypatch.setattr(i3d, "AT_ONCE", at_once)
        assert i3d.preprocess(two, fit).equal(whole)


def test_faults_are_reported() -> None:
    for clips, text in (
        (torch.zeros(1, 9, 8, 8, 3, dtype=torch.uint8), "at least 10 frames, got 9"),
        (torch.zeros(1, 16, 8, 8, 3), r"of uint8, got \[1, 16, 8, 8, 3\] of torch.float32"),
        (torch.zeros(16, 8, 8, 3, dtype=torch.uint8), r"got \[16, 8, 8, 3\]"),
    ):
        with pytest.raises(UserError, match=text):
            i3d.preprocess(clips)
