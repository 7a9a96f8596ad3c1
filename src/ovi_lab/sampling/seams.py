"""How far picture and sound jump where two windows of a long clip meet, against their jumps everywhere else.

Shapes: T frames, H rows, W columns; S samples, N places.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

WINDOW = 0.02
"""Seconds of sound on each side of a place whose spectra are compared."""
FLOOR = 1e-3
"""Amplitude that is added to a spectrum before its logarithm: about -60 dB, below which a change is not heard."""


@dataclass(frozen=True)
class Jump:
    """The jump at one seam."""

    seconds: float
    """Where, from the clip's beginning."""
    ratio: float
    """Its size over the median jump elsewhere; 1 is what the clip does at any place."""
    above: float
    """The share of places elsewhere whose jump is smaller: 0.5 is the middle, 1 the largest jump of the clip."""


def picture_jumps(frames_THWC: Tensor, fps: float, at: Sequence[int]) -> list[Jump]:
    """The mean absolute difference of each frame in `at` to the one before, against that of all other frames.

    Args:
        frames_THWC: uint8.
        fps: frames a second.
        at: the first frame that each later window adds.
    """
    frames = frames_THWC.float()
    sizes_T = torch.cat([frames.new_zeros(1), (frames[1:] - frames[:-1]).abs().flatten(1).mean(dim=1)])
    own = set(at)
    others = [t for t in range(1, len(frames)) if t not in own]
    return [_jump(t / fps, sizes_T[t], sizes_T[others]) for t in at]


def sound_jumps(wave_S: Tensor, sample_rate: int, at: Sequence[int]) -> list[Jump]:
    """The change of the spectrum at each sample of `at`, against that at places 10 ms apart over the whole clip.

    The change is the mean over frequencies of the absolute difference in log amplitude between the 20 ms before and
    the 20 ms after. Places within 20 ms of a seam are no places elsewhere.
    """
    width = round(WINDOW * sample_rate)
    hops = range(width, len(wave_S) - width + 1, width // 2)
    places = [n for n in hops if all(abs(n - seam) >= width for seam in at)]
    everywhere_N = _changes(wave_S, width, places)
    inside = [min(max(n, width), len(wave_S) - width) for n in at]
    sizes = _changes(wave_S, width, inside)
    return [_jump(n / sample_rate, size, everywhere_N) for n, size in zip(at, sizes, strict=True)]


def _changes(wave_S: Tensor, width: int, places: Sequence[int]) -> Tensor:
    """[N] of places at least `width` samples from both ends."""
    starts = torch.tensor(places, dtype=torch.long)[:, None]
    index_NW = starts + torch.arange(width)
    window_W = torch.hann_window(width, periodic=False)
    before, after = (
        torch.fft.rfft(wave_S.float()[index_NW - shift] * window_W).abs() * (2 / window_W.sum())
        for shift in (width, 0)
    )
    return ((after + FLOOR).log() - (before + FLOOR).log()).abs().mean(dim=1)


def _jump(seconds: float, size: Tensor, others: Tensor) -> Jump:
    middle = float(others.median()) if len(others) else 0.0
    # a clip that stands still has the median 0
    ratio = float(size) / middle if middle > 0 else (1.0 if float(size) == 0 else float("inf"))
    return Jump(seconds, ratio, float((others < size).float().mean()) if len(others) else 0.0)
