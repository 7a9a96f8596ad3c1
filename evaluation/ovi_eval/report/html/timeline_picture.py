"""A clip's timeline as one picture: frames side by side above the spectrogram of the sound, on one time axis.

Shapes: T frames, H rows, W columns, 3 colours, S samples, F frequency bins, L windows.
"""

from __future__ import annotations

import io
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

Array = NDArray[np.float64]
Pixels = NDArray[np.uint8]
WIDTH, STRIP, SPECTROGRAM, GAP = 512, 53, 112, 3
TIMELINE = (WIDTH, STRIP + GAP + SPECTROGRAM)
"""Width and height of the picture in pixels."""
_THUMB = 16
_RANGE_DB = 65.0
_LOW_HZ = 50.0


def timeline(frames_THWC: Tensor, wave_S: Tensor, sample_rate: int) -> bytes:
    """JPEG of 512 x 168 pixels; both halves span the clip's whole length, so that a playhead fits both.

    `frames_THWC` uint8, `wave_S` in [-1, 1].
    """
    spacer = np.zeros((GAP, WIDTH, 3), dtype=np.uint8)
    wave = wave_S.double().numpy()
    return jpeg(np.concatenate([strip(frames_THWC.numpy()), spacer, spectrogram(wave, sample_rate)]))


def strip(frames_THWC: Pixels) -> Pixels:
    """The middle half of 32 frames evenly spread over the clip, each squeezed to 16 pixels: [53, 512, 3]."""
    count = WIDTH // _THUMB
    moments = ((np.arange(count) + 0.5) / count * len(frames_THWC)).astype(int)
    height, width = frames_THWC.shape[1:3]
    part = max(1, min(width, height // 2))
    left = (width - part) // 2
    size, box = (_THUMB, STRIP), Image.Resampling.BOX
    thumbs = [Image.fromarray(frames_THWC[t, :, left : left + part]).resize(size, box) for t in moments]
    return np.concatenate([np.asarray(thumb) for thumb in thumbs], axis=1)


def spectrogram(wave_S: Array, sample_rate: int) -> Pixels:
    """Power of 64 ms Hann windows in dB below the loudest, low pitch at the bottom: [112, 512, 3].

    The rows are spaced by logarithm of frequency from 50 Hz to the lower of 8 kHz and half the sample rate.
    """
    size = max(16, round(0.064 * sample_rate))
    padded = np.pad(wave_S, size)
    centres = ((np.arange(WIDTH) + 0.5) / WIDTH * len(wave_S)).astype(int) + size
    windows_LS = padded[centres[:, None] + np.arange(size) - size // 2] * np.hanning(size)
    power_LF = np.abs(np.fft.rfft(windows_LS, n=4 * size)) ** 2
    rows_hz = np.geomspace(min(8000.0, sample_rate / 2), _LOW_HZ, SPECTROGRAM)
    bins = np.clip(np.round(rows_hz * 4 * size / sample_rate).astype(int), 0, power_LF.shape[1] - 1)
    picked = power_LF[:, bins].T
    loudest = max(float(picked.max()), 1e-9)
    shade = np.clip(1 + 10 * np.log10(np.maximum(picked / loudest, 1e-12)) / _RANGE_DB, 0, 1)
    return _colours()[(shade * 255).astype(np.uint8)]


@lru_cache(maxsize=1)
def _colours() -> Pixels:
    from matplotlib import colormaps

    return (np.asarray(colormaps["inferno"](np.arange(256)))[:, :3] * 255).astype(np.uint8)


def poster(frames_THWC: Tensor) -> bytes:
    """The first frame as a small JPEG, shown until the clip plays."""
    first = Image.fromarray(frames_THWC[0].numpy())
    first.thumbnail((128, 128), Image.Resampling.BOX)
    return jpeg(np.asarray(first))


def jpeg(pixels: Pixels) -> bytes:
    """Pixels [H, W, 3] as JPEG."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=85, optimize=True)
    return buffer.getvalue()
