"""Triangular bands on mel scales, and Fourier transforms as tables: parts of the sound networks' front ends.

Slaney's scale and norm: Slaney 1998, "Auditory toolbox", librosa's default. HTK's scale: 2595 log10(1 + Hz / 700).

Shapes: K bins of a Fourier transform, B bands, W samples of a window.
"""

import math

import numpy as np
import torch
from torch import Tensor

# Slaney's scale is linear up to 1000 Hz in steps of 200 / 3 Hz, then 27 steps for a factor of 6.4.
LINEAR_HZ, KNEE_HZ = 200 / 3, 1000.0
KNEE_MEL = KNEE_HZ / LINEAR_HZ
LOG_STEP = math.log(6.4) / 27


def triangles(bins_K: Tensor, corners: Tensor) -> Tensor:
    """[K, B] float64: the weight of each bin in bands that rise from one of B + 2 corners to the next and fall again.

    Bins and corners are in one unit, Hz or mel; the height of each triangle is 1.
    """
    left_B, top_B, right_B = corners[:-2], corners[1:-1], corners[2:]
    rising_KB = (bins_K[:, None] - left_B) / (top_B - left_B)
    falling_KB = (right_B - bins_K[:, None]) / (right_B - top_B)
    return torch.minimum(rising_KB, falling_KB).clamp(min=0)


def slaney_bands(bins_K: Tensor, count: int, lowest_hz: float, highest_hz: float) -> Tensor:
    """[K, B] float64: triangles between two frequencies, evenly spaced on Slaney's scale, each of area 1 over Hz."""
    lowest, highest = slaney_mel(lowest_hz), slaney_mel(highest_hz)
    mels = torch.linspace(lowest, highest, count + 2, dtype=torch.float64)
    curved = KNEE_HZ * torch.exp((mels - KNEE_MEL) * LOG_STEP)
    corners = torch.where(mels < KNEE_MEL, mels * LINEAR_HZ, curved)
    return triangles(bins_K, corners) * (2 / (corners[2:] - corners[:-2]))


def slaney_mel(hz: float) -> float:
    """A frequency on Slaney's scale."""
    return hz / LINEAR_HZ if hz < KNEE_HZ else KNEE_MEL + math.log(hz / KNEE_HZ) / LOG_STEP


def htk_bands(bins_K: Tensor, count: int, lowest_hz: float, highest_hz: float) -> Tensor:
    """[K, B] float64: triangles between two frequencies that are straight on HTK's scale, not over Hz."""

    def mel(hz: Tensor) -> Tensor:
        return 1127.0 * torch.log1p(hz / 700.0)

    lowest, highest = mel(torch.tensor([lowest_hz, highest_hz], dtype=torch.float64)).tolist()
    return triangles(mel(bins_K), torch.linspace(lowest, highest, count + 2, dtype=torch.float64))


def htk_corners(count: int, highest_hz: float) -> np.ndarray:
    """[B + 2] Hz from 0 to the highest frequency, evenly spaced on HTK's scale."""
    highest = 2595 * np.log10(1 + highest_hz / 700)
    return 700 * (10 ** (np.linspace(0, highest, count + 2) / 2595) - 1)


def fourier_tables(window: int) -> tuple[Tensor, Tensor]:
    """Real and imaginary part [K, 1, W] float32 of the transform of a periodic Hann window, K = 1 + W // 2."""
    # Whole turns are taken off first, as cosines of thousands of radians lose digits.
    turns_KW = torch.outer(torch.arange(1 + window // 2), torch.arange(window)) % window
    angle_KW = 2 * math.pi / window * turns_KW.double()
    hann_W = torch.hann_window(window, periodic=True, dtype=torch.float64)
    return (torch.cos(angle_KW) * hann_W)[:, None].float(), (-torch.sin(angle_KW) * hann_W)[:, None].float()
