"""Temporal flickering as VBench has it: how little a frame differs from the one before.

Huang et al. 2024 ("VBench: Comprehensive benchmark suite for video generative models"): the mean absolute
difference of consecutive frames, over all pixels and the three colours of 8 bits, averaged over the pairs of
frames, as (255 - mean) / 255. 1 is a picture that stands still: VBench gives the value for clips of still scenes
only, and so it should be read.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ovi_eval.clips.items import Item
from ovi_eval.errors import UserError
from ovi_eval.metrics.base import Extractor, Features, ItemMean, ValueSpec


class FrameDifferences(Extractor):
    """Features: `difference` [T - 1] float64, the mean absolute difference of each frame from the one before."""

    name = "frame_differences"
    preprocessing = "frames of full size, 8-bit RGB"

    def load(self, item: Item) -> Tensor:
        return item.frames_through(_Difference()).frames_THWC

    def run(self, loaded: Any) -> Features:
        if len(loaded) < 2:
            raise UserError("it has a single frame, temporal flickering needs at least 2")
        return {"difference": loaded[1:]}


class _Difference:
    """Called with each frame [H, W, 3] in turn: its difference from the one before, 0 for the first."""

    def __init__(self) -> None:
        self.before: Tensor | None = None

    def __call__(self, frame_HWC: Tensor) -> Tensor:
        before, self.before = self.before, frame_HWC
        if before is None:
            return torch.zeros((), dtype=torch.float64)
        # In 8 bits, a quarter of the memory that floats would take.
        apart_HWC = torch.maximum(frame_HWC, before) - torch.minimum(frame_HWC, before)
        return apart_HWC.sum(dtype=torch.int64).double() / apart_HWC.numel()


class TemporalFlickering(ItemMean):
    """VBench's temporal flickering, in [0, 1]."""

    name = "temporal_flickering"
    values = (ValueSpec("temporal_flickering", "higher"),)
    extractor = FrameDifferences

    def measure(self, features: Features, reference: Features | None = None) -> list[float]:
        return [(255 - float(features["difference"].mean())) / 255]
