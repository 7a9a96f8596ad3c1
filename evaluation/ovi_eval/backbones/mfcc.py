"""Mel-frequency cepstra as SyncNet's release takes them: those of python_speech_features by default.

Davis and Mermelstein 1980. Of 16 kHz sound as 16-bit whole numbers, never scaled: x[t] - 0.97 x[t - 1];
frames of 25 ms every 10 ms without a window, the last padded with zeros; power spectrum of an FFT of 512
over 512; 26 triangles on the HTK mel scale from 0 to 8000 Hz with corners at whole bins; logarithm;
orthonormal cosine transform, of which 13 are kept; sine lifter of 22; the first replaced by the logarithm of
the frame's energy. Sound scaled to [-1, 1] would change that first one by 20.8.

Shapes: S samples, M frames, K = 257 bins, B = 26 bands, D = 13 cepstra.
"""

from functools import cache

import numpy as np
import torch

from ovi_eval.backbones import mel
from ovi_eval.errors import UserError

SAMPLE_RATE = 16000
WINDOW, HOP, FFT = 400, 160, 512
BANDS, KEPT, LIFTER = 26, 13, 22
PRE_EMPHASIS = 0.97
SMALLEST = float(np.finfo(np.float64).eps)


def mfcc(wave_S: np.ndarray) -> np.ndarray:
    """Cepstra [M, 13] float64 of a 16 kHz wave [S] of int16; M = 1 + ceil((S - 400) / 160), at least 1.

    Raises UserError for a wave of another type or shape, or without a sample.
    """
    if wave_S.ndim != 1 or wave_S.dtype != np.int16 or not len(wave_S):
        raise UserError(
            f"cepstra are taken of a wave [S] of int16 at {SAMPLE_RATE} Hz, got {list(wave_S.shape)} of "
            f"{wave_S.dtype}"
        )
    sound = wave_S.astype(np.float64)
    sound[1:] -= PRE_EMPHASIS * wave_S[:-1]
    count = 1 + max(0, -(-(len(sound) - WINDOW) // HOP))
    padded = np.zeros((count - 1) * HOP + WINDOW)
    padded[: len(sound)] = sound
    frames_MW = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP]
    power_MK = np.abs(np.fft.rfft(frames_MW, FFT)) ** 2 / FFT
    energy_M = power_MK.sum(axis=1)
    log_MB = np.log(_not_zero(power_MK @ _bands()))
    cepstra_MD = log_MB @ _cosines().T
    cepstra_MD *= 1 + LIFTER / 2 * np.sin(np.pi * np.arange(KEPT) / LIFTER)
    cepstra_MD[:, 0] = np.log(_not_zero(energy_M))
    return cepstra_MD


def _not_zero(values: np.ndarray) -> np.ndarray:
    return np.where(values == 0, SMALLEST, values)


@cache
def _bands() -> np.ndarray:
    """[257, 26]: triangles between every other of 28 corners, which lie at whole bins."""
    corners = np.floor((FFT + 1) * mel.htk_corners(BANDS, SAMPLE_RATE / 2) / SAMPLE_RATE)
    return mel.triangles(torch.arange(FFT // 2 + 1), torch.from_numpy(corners)).numpy()


@cache
def _cosines() -> np.ndarray:
    """[13, 26]: the first rows of the orthonormal cosine transform of type 2."""
    rows = np.cos(np.pi * np.outer(np.arange(KEPT), np.arange(BANDS) + 0.5) / BANDS) * np.sqrt(2 / BANDS)
    rows[0] /= np.sqrt(2)
    return rows
