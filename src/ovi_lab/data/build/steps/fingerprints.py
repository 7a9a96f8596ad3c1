"""Fingerprints of picture and sound that hardly change when a clip is encoded again, at another size or rate.

Shapes: T frames, H rows, W columns, S samples.
"""

from __future__ import annotations

import itertools
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from ovi_lab.data.build.clip import Candidate, Scores
from ovi_lab.data.build.step import BuildStep, ScoreSpec

FRAMES = 8
"""Frames of a clip that are looked at, evenly spaced."""
SIDE = 32
LOW = 8
BANDS = 17
SPANS = 33


class Fingerprints(BuildStep):
    """`picture_print`: of 8 frames, 64 bits each: whether each of the 8 by 8 lowest cosine coefficients of the frame at
    32 by 32 pixels lies above their median (perceptual hash by DCT). `sound_print`: 512 bits: whether the energy of
    17 bands in 33 spans of time grows from band to band and from span to span (Haitsma and Kalker, ISMIR 2002).

    Clips are compared by the share of bits that differ (`difference`).
    """

    name = "fingerprints"
    needs: ClassVar = frozenset()
    scores = (
        ScoreSpec("picture_print", "fingerprint of the picture", kind="print"),
        ScoreSpec("sound_print", "fingerprint of the sound", kind="print"),
    )

    def measure(self, clip: Candidate) -> Scores:
        found: Scores = {"picture_print": None, "sound_print": None}
        if clip.frames_THWC is not None:
            places = np.linspace(0, len(clip.frames_THWC) - 1, FRAMES).round().astype(int)
            frames = clip.small()
            found["picture_print"] = _hex(np.concatenate([_of_frame(frames[place]) for place in places]))
        if clip.wave_S is not None:
            bits = _of_sound(clip.wave_S.double().numpy(), clip.sample_rate)
            found["sound_print"] = None if bits is None else _hex(bits)
        return found


def difference(one: str, other: str) -> float:
    """The share of bits in which two fingerprints differ, 0 to 1; 1 where they are of different length."""
    if len(one) != len(other):
        return 1.0
    bits = int(one, 16) ^ int(other, 16)
    return bits.bit_count() / (4 * len(one))


def _of_frame(frame_HWC: NDArray[np.uint8]) -> NDArray[np.bool_]:
    from scipy.fft import dctn

    grey = frame_HWC.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    square = torch.nn.functional.interpolate(
        torch.from_numpy(grey)[None, None], (SIDE, SIDE), mode="bilinear", antialias=True
    )[0, 0].numpy()
    low: NDArray[np.float64] = dctn(square.astype(np.float64), norm="ortho")[:LOW, :LOW].flatten()
    bits: NDArray[np.bool_] = low > np.median(low[1:])
    return bits


def _of_sound(wave_S: NDArray[np.float64], rate: int) -> NDArray[np.bool_] | None:
    """512 bits; None of a sound that is too short or silent."""
    window = 2 * len(wave_S) // (SPANS + 1)
    if window < 64 or not np.abs(wave_S).max() > 1e-4:
        return None
    shape = np.hanning(window)
    begins = [len(wave_S) * place // (SPANS + 1) for place in range(SPANS)]
    spectra = np.stack([np.abs(np.fft.rfft(wave_S[b : b + window] * shape)) ** 2 for b in begins])
    edges = np.geomspace(300, min(3000, rate / 2), BANDS + 1) * window / rate
    bands = [spectra[:, int(a) : max(int(a) + 1, int(b))].sum(axis=1) for a, b in itertools.pairwise(edges)]
    energy = np.log(np.stack(bands, axis=1) + 1e-12)
    growth = energy[:, 1:] - energy[:, :-1]
    bits: NDArray[np.bool_] = (growth[1:] - growth[:-1]).flatten() > 0
    return bits


def _hex(bits: NDArray[np.bool_]) -> str:
    return np.packbits(bits).tobytes().hex()
