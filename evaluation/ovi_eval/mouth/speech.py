"""What can be said in the world of the speaking mouth: consonants, vowels and voices, and how they sound.

A syllable is a consonant, 75 ms of noise, then a vowel: the harmonics of the voice's fundamental, weighted by the
vowel's two formants and, for the lowest two, by a voice bar (the sound that passes through the throat's wall, which
carries the pitch whatever the vowel). The world makes its sound from these functions; the judge of the sound compares
what it hears with them.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class Vowel(NamedTuple):
    """Formants in Hz, and half the mouth's width and height in pixels of a picture of 16x16."""

    formants_hz: tuple[float, float]
    half_width: float
    half_height: float


VOWELS = {
    "a": Vowel((780.0, 1250.0), 3.4, 3.2),
    "e": Vowel((480.0, 2000.0), 4.6, 2.0),
    "i": Vowel((320.0, 2550.0), 5.2, 1.1),
    "o": Vowel((480.0, 980.0), 2.1, 3.2),
    "u": Vowel((320.0, 620.0), 2.0, 1.9),
}
CLOSED = (2.6, 0.25)
"""Half the width and height of the mouth at rest and at a consonant."""
CONSONANTS = {"b": (180.0, 530.0), "d": (1350.0, 2200.0), "s": (2900.0, 3800.0)}
"""Lowest and highest frequency of each consonant's noise, Hz."""
VOICES = {"red": 100.0, "green": 150.0, "blue": 230.0, "yellow": 340.0}
"""Fundamental frequency, Hz, of the voice that goes with each colour of the face."""
SYLLABLES = tuple(c + v for c in CONSONANTS for v in VOWELS)

CONSONANT_S = 0.075
BANDWIDTHS_HZ = (120.0, 180.0)
FORMANT_LEVELS = (1.0, 0.8)
BAR_LEVELS = (0.6, 0.4)
"""Of the fundamental and its first overtone, where a harmonic on a formant has 1."""
TOP_HZ = 3800.0
VOICE_RMS, NOISE_RMS = 0.16, 0.28


@lru_cache(maxsize=64)
def vowel_wave(hz: float, vowel: str, samples: int, rate: int) -> Array:
    """float32 [samples] of a steady vowel, of root mean square VOICE_RMS; it begins at a glottal pulse."""
    harmonics_K = np.arange(1, int(TOP_HZ / hz) + 1)
    levels_K = np.zeros(len(harmonics_K))
    levels_K[: len(BAR_LEVELS)] = BAR_LEVELS
    for formant, width, level in zip(VOWELS[vowel].formants_hz, BANDWIDTHS_HZ, FORMANT_LEVELS, strict=True):
        levels_K += level / np.sqrt(1 + ((harmonics_K * hz - formant) / (width / 2)) ** 2)
    times_S = np.arange(samples) / rate
    wave_S = levels_K @ np.cos(2 * np.pi * hz * harmonics_K[:, None] * times_S)
    wave_S *= VOICE_RMS / np.sqrt(0.5 * np.square(levels_K).sum())
    wave_S = wave_S.astype(np.float32)
    wave_S.flags.writeable = False  # shared by all who ask for it
    return wave_S


def consonant_wave(consonant: str, noise_S: Array, rate: int) -> Array:
    """float32 [S]: white noise of variance 1, cut to the consonant's frequencies and brought to NOISE_RMS."""
    spectrum_F = np.fft.rfft(noise_S)
    hz_F = np.fft.rfftfreq(len(noise_S), 1 / rate)
    low, high = CONSONANTS[consonant]
    spectrum_F[(hz_F < low) | (hz_F > high)] = 0
    wave_S = np.fft.irfft(spectrum_F, len(noise_S))
    return np.asarray(wave_S * (NOISE_RMS / np.sqrt(np.square(wave_S).mean())), np.float32)
