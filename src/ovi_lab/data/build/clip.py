"""A clip that is being judged, with the media that steps look at.

Shapes: T frames, H rows, W columns, S samples.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Scores = dict[str, float | str | None]
"""A clip's scores by name; None where a step has nothing to say, as of sound that is not there."""

SMALL_SIDE = 256
"""Longer side in pixels of the frames that steps look at where detail does not matter."""


@dataclass
class Candidate:
    """A clip of one source, kept or not."""

    key: str
    source: str
    """Path of the file, relative to the folder that is built from."""
    start_s: float
    """Of its first frame, in seconds after the first frame of the source."""
    frames_THWC: Tensor | None
    """uint8, at the size and rate of the shards; None for sound alone."""
    fps: float
    wave_S: Tensor | None
    """float32 in one channel at `sample_rate`; None for a silent film."""
    sample_rate: int
    native_S: Tensor | None = None
    """The sound at the rate of the file, which shows its true bandwidth."""
    native_rate: int = 0
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What is known of its source and place, in plain values."""

    @property
    def seconds(self) -> float:
        """Of the picture; of the sound where there is no picture."""
        if self.frames_THWC is not None:
            return len(self.frames_THWC) / self.fps
        return 0.0 if self.wave_S is None else len(self.wave_S) / self.sample_rate

    def small(self) -> NDArray[np.uint8]:
        """The frames [T, h, w, 3], their longer side at most `SMALL_SIDE` pixels."""
        if self._small is None:
            if self.frames_THWC is None:
                raise TypeError("a clip of sound alone has no frames")
            frames = [frame.numpy() for frame in self.frames_THWC]
            first = shrunk(frames[0])
            # made before the others: small results among large scratch would hold the heap open
            small = np.empty((len(frames), *first.shape), np.uint8)
            for place, frame in enumerate(frames):
                small[place] = shrunk(frame) if place else first
            self._small = small
        return self._small

    _small: NDArray[np.uint8] | None = field(default=None, init=False, repr=False)


def shrunk(frame_HWC: NDArray[np.uint8], side: int = SMALL_SIDE) -> NDArray[np.uint8]:
    """A frame with its longer side at most `side` pixels, by the mean over areas."""
    height, width = frame_HWC.shape[:2]
    factor = max(height, width) / side
    if factor <= 1:
        return frame_HWC
    rows, columns = max(1, round(height / factor)), max(1, round(width / factor))
    picture = torch.from_numpy(frame_HWC).permute(2, 0, 1)[None].float()
    small = torch.nn.functional.interpolate(picture, (rows, columns), mode="area")
    return small[0].permute(1, 2, 0).round().to(torch.uint8).numpy()
