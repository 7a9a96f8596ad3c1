"""Bands on Slaney's mel scale with Slaney's norm, librosa's default.

Slaney 1998, "Auditory toolbox". Shapes: K bins of a Fourier transform, B bands.
"""

import math

import torch
from torch import Tensor

# Straight up to 1000 Hz in steps of 200 / 3 Hz, then 27 steps for a factor of 6.4.
STRAIGHT_HZ, KNEE_HZ = 200 / 3, 1000.0
KNEE_MEL = KNEE_HZ / STRAIGHT_HZ
LOG_STEP = math.log(6.4) / 27


def bands(sample_rate: int, bins: int, count: int, lowest_hz: float, highest_hz: float) -> Tensor:
    """[K, B] float64: the weight of each of `bins` from 0 Hz to half the rate in each of `count` triangles.

    Triangles overlap by half between the two frequencies and have an area of 1 over Hz.
    """
    bins_K = torch.linspace(0, sample_rate / 2, bins, dtype=torch.float64)
    edges = to_hz(torch.linspace(to_mel(lowest_hz), to_mel(highest_hz), count + 2, dtype=torch.float64))
    left_B, top_B, right_B = edges[:-2], edges[1:-1], edges[2:]
    rising_KB = (bins_K[:, None] - left_B) / (top_B - left_B)
    falling_KB = (right_B - bins_K[:, None]) / (right_B - top_B)
    return torch.minimum(rising_KB, falling_KB).clamp(min=0) * (2 / (right_B - left_B))


def to_mel(hz: float) -> float:
    """A frequency on Slaney's scale."""
    return hz / STRAIGHT_HZ if hz < KNEE_HZ else KNEE_MEL + math.log(hz / KNEE_HZ) / LOG_STEP


def to_hz(mel: Tensor) -> Tensor:
    """The frequencies of values on Slaney's scale."""
    curved = KNEE_HZ * torch.exp((mel - KNEE_MEL) * LOG_STEP)
    return torch.where(mel < KNEE_MEL, mel * STRAIGHT_HZ, curved)
