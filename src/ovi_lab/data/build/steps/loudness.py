"""What is wrong with a sound: too quiet, clipped, silent in parts, of narrow band.

Shapes: S samples.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ovi_lab.data.build.clip import Candidate, Scores
from ovi_lab.data.build.step import BuildStep, ScoreSpec
from ovi_lab.errors import UserError

FLOOR_DB = -120.0
"""Of digital silence, whose level has no logarithm."""
WINDOW_S = 0.05
CLIPPED = 0.999
RUN = 3
"""Samples at full scale in a row from which on a sound is clipped: single ones are peaks."""
BAND_DB = 60.0


class Loudness(BuildStep):
    """Level, loudness, clipping, silence and bandwidth of a clip's sound.

    `mean_volume` is the level of the root mean square in dB of full scale, as FFmpeg's volumedetect has it, and what
    the paper's -60 dB bounds. `loudness` is the integrated loudness of EBU R128 (ITU-R BS.1770-4). `silence_share`
    is the share of windows of 50 ms below `silence_db`. `bandwidth` is the highest frequency at which the mean
    spectrum lies within 60 dB of its peak, of the sound at its file's own rate: telephone sound ends at 4 kHz
    whatever rate it was brought to.
    """

    name = "loudness"
    needs: ClassVar = frozenset({"sound"})
    scores = (
        ScoreSpec("mean_volume", "level", "dB"),
        ScoreSpec("loudness", "integrated loudness", "LUFS"),
        ScoreSpec("clipped_share", "samples at full scale in runs", "share"),
        ScoreSpec("silence_share", "windows of silence", "share"),
        ScoreSpec("bandwidth", "highest frequency with sound", "Hz"),
    )

    def __init__(self, silence_db: float = -60.0) -> None:
        if isinstance(silence_db, bool) or not isinstance(silence_db, int | float) or silence_db >= 0:
            raise UserError(f"step loudness: silence_db is {silence_db!r}; expected a level below 0 dB")
        self.silence_db = float(silence_db)

    def measure(self, clip: Candidate) -> Scores:
        if clip.wave_S is None:
            raise TypeError("the clip has no sound")
        native, rate = clip.native_S, clip.native_rate
        wave_S = (clip.wave_S if native is None else native).double().numpy()
        rate = clip.sample_rate if native is None else rate
        window = max(1, round(WINDOW_S * rate))
        rows = wave_S[: len(wave_S) // window * window].reshape(-1, window)
        levels = [decibels(float(np.mean(row**2))) for row in rows] or [FLOOR_DB]
        return {
            "mean_volume": decibels(float(np.mean(wave_S**2)) if len(wave_S) else 0.0),
            "loudness": integrated_loudness(wave_S, rate),
            "clipped_share": clipped_share(wave_S),
            "silence_share": float(np.mean([level < self.silence_db for level in levels])),
            "bandwidth": bandwidth(wave_S, rate),
        }


def decibels(power: float) -> float:
    """10 log10 of a mean square, at least `FLOOR_DB`."""
    return max(FLOOR_DB, 10 * math.log10(power)) if power > 0 else FLOOR_DB


def clipped_share(wave_S: NDArray[np.float64]) -> float:
    """The share of samples that stand at full scale beside others that do, `RUN` or more in a row."""
    if not len(wave_S):
        return 0.0
    full = np.concatenate([[False], np.abs(wave_S) >= CLIPPED, [False]])
    edges = np.flatnonzero(full[1:] != full[:-1])
    lengths = edges[1::2] - edges[::2]
    return float(lengths[lengths >= RUN].sum() / len(wave_S))


def bandwidth(wave_S: NDArray[np.float64], rate: int) -> float:
    """The highest frequency in Hz at which the mean power spectrum is within `BAND_DB` of its peak; 0 of silence."""
    from scipy.signal import welch

    if len(wave_S) < 256:
        return 0.0
    frequencies, power = welch(wave_S, rate, nperseg=min(4096, len(wave_S)))
    peak = float(power.max())
    if peak <= 0:
        return 0.0
    return float(frequencies[np.flatnonzero(power > peak * 10 ** (-BAND_DB / 10))[-1]])


def integrated_loudness(wave_S: NDArray[np.float64], rate: int) -> float | None:
    """Integrated loudness in LUFS of one channel by ITU-R BS.1770-4; None where no block passes the gates.

    The K-weighting's two filters are computed for the rate from the standard's analogue prototypes, as its values at
    48 kHz follow from them (Brecht De Man, "Evaluation of implementations of the EBU R128 loudness measurement", 2018).
    """
    from scipy.signal import lfilter

    block, hop = round(0.4 * rate), round(0.1 * rate)
    if len(wave_S) < block:
        return None
    weighted_S: Any = wave_S
    for b, a in (_shelf(rate), _highpass(rate)):
        weighted_S = lfilter(b, a, weighted_S)
    sums = np.concatenate([[0.0], np.cumsum(np.asarray(weighted_S) ** 2)])
    begins = np.arange(0, len(wave_S) - block + 1, hop)
    power = (sums[begins + block] - sums[begins]) / block

    def gated(limit: float) -> NDArray[np.float64]:
        with np.errstate(divide="ignore"):
            loud: NDArray[np.float64] = power[-0.691 + 10 * np.log10(power) > limit]
        return loud

    loud = gated(-70.0)
    if not len(loud):
        return None
    loud = gated(-0.691 + 10 * math.log10(float(loud.mean())) - 10.0)
    return -0.691 + 10 * math.log10(float(loud.mean()))


def _shelf(rate: int) -> tuple[list[float], list[float]]:
    """The first filter: +4 dB above 1.7 kHz, for the head."""
    k, q, gain = (
        math.tan(math.pi * 1681.974450955533 / rate),
        0.7071752369554196,
        10 ** (3.999843853973347 / 20),
    )
    band = gain**0.4996667741545416
    a0 = 1 + k / q + k * k
    b = [(gain + band * k / q + k * k) / a0, 2 * (k * k - gain) / a0, (gain - band * k / q + k * k) / a0]
    return b, [1.0, 2 * (k * k - 1) / a0, (1 - k / q + k * k) / a0]


def _highpass(rate: int) -> tuple[list[float], list[float]]:
    """The second filter: a high-pass at 38 Hz."""
    k, q = math.tan(math.pi * 38.13547087602444 / rate), 0.5003270373238773
    a0 = 1 + k / q + k * k
    return [1.0, -2.0, 1.0], [1.0, 2 * (k * k - 1) / a0, (1 - k / q + k * k) / a0]
