"""What a viewer of the speaking mouth sees and hears, from frames and sound alone: syllables, colour, voice.

The mouth is the dark on the face. Its size tells when it opens, and its spread across and down which vowel it says.
In the sound, the loudest of three ranges of frequency at an onset is the consonant, and the bands of the vowel after it
are compared with those of every vowel in every voice; the voice is the one that fits all syllables of a clip best.

The thresholds belong to the world's 32 frames of 16x16 in 2.025 s; frames of another size are brought to 16x16 first.

Shapes: N clips, T frames, P pixels, L tokens of 25 ms, K = 12 bands, A syllables of a clip, V voices, W vowels.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise

import torch
from torch import Tensor

from ovi_eval.ball import detectors as events
from ovi_eval.ball.sound_bands import BAND_EDGES_HZ, FLOOR, band_energies
from ovi_eval.mouth.speech import CONSONANT_S, CONSONANTS, VOICES, VOWELS, vowel_wave

FACE_TOP, FACE_RADIUS = 7, 6.0
"""The first row looked at, and how far from the picture's centre: the face below its eyes, without its rim."""
DARK_FROM, DARK_TO = 0.2, 0.8
"""How much darker than skin a pixel is where it begins to count as mouth, and where it counts wholly."""
OPEN_AREA = 7.5
"""Of the dark, in pixels, above which the mouth is open. Closed it has about 3.5, open for a u about 12."""
OPENS_S = 0.012
"""How long, on average, the mouth takes from the end of the consonant to that area."""
OPEN_GAP_FRAMES = 4
HELD_FRAMES = 3
"""How many frames from the one where it opens a vowel is looked for in; those nearly as open as the widest count."""
NEARLY = 0.7
EDGE_SPREAD = 0.35
"""Variance, in square pixels, that the soft edge and the pixels' size add to the dark's spread."""
SHAPES = ((3.25, 2.8), (4.35, 1.85), (5.0, 0.55), (2.05, 2.75), (1.95, 1.7))
"""Half width and half height measured of a mouth that says each of VOWELS: the mean of clips as they are made and of
the same clips through the codec."""
VOWEL_TOKENS = range(4, 9)
"""After an onset: where the vowel is steady."""
GAINS = (0.7, 0.85, 1.0, 1.2)
"""Loudness at which what is heard is compared with the known vowels."""
ONSET_FLUX = 0.7
"""Lower than the ball world's. A vowel's beginning comes too soon after its consonant's to count again."""


def darkness(frames_NTHWC: Tensor) -> Tensor:
    """How much each pixel of the lower face is mouth, from 0 (as bright as skin) to 1, [N, T, H, W]; 0 elsewhere."""
    light_NTHW = frames_NTHWC.amax(dim=-1)
    side = light_NTHW.shape[-1]
    from_middle = torch.arange(side) + 0.5 - side / 2
    inside_HW = torch.hypot(from_middle[:, None], from_middle) < FACE_RADIUS
    inside_HW[:FACE_TOP] = False
    skin_N = light_NTHW[..., inside_HW].flatten(1).quantile(0.75, dim=1).clamp(min=0.05)
    darker_NTHW = 1 - light_NTHW / skin_N[:, None, None, None]
    return ((darker_NTHW - DARK_FROM) / (DARK_TO - DARK_FROM)).clamp(0, 1) * inside_HW


def openings(dark_NTHW: Tensor) -> list[list[int]]:
    """The frames in which each clip's mouth is first seen open."""
    open_NT = dark_NTHW.sum(dim=(2, 3)) > OPEN_AREA
    opens_NT = torch.zeros_like(open_NT)
    opens_NT[:, 1:] = open_NT[:, 1:] & ~open_NT[:, :-1]
    kept_NT = events.first_of_each(opens_NT, OPEN_GAP_FRAMES)
    return [row.nonzero().flatten().tolist() for row in kept_NT]


def opening_seconds(frames: list[int], fps: float) -> list[float]:
    """When the syllables begin, seconds: half a frame before the centre of the frame, less the consonant's length and
    the time that the mouth takes to open.
    """
    return [frame / fps - CONSONANT_S - OPENS_S for frame in frames]


def vowels_seen(dark_THW: Tensor, frames: list[int]) -> list[int]:
    """Which vowel each opening's mouth has the width and height of, as places in VOWELS."""
    shapes_W2 = torch.tensor(SHAPES)
    found = []
    for frame in frames:
        held_THW = dark_THW[frame : frame + HELD_FRAMES]
        area_T = held_THW.sum(dim=(1, 2))
        kept_HW = held_THW[area_T >= NEARLY * area_T.max()].mean(dim=0)
        found.append(int((_half_axes(kept_HW) - shapes_W2).norm(dim=-1).argmin()))
    return found


def _half_axes(dark_HW: Tensor) -> Tensor:
    """Half width and half height [2] of the ellipse whose dark has this spread, in pixels."""
    share_HW = dark_HW / dark_HW.sum().clamp(min=1e-6)
    axes = []
    for share in (share_HW.sum(dim=0), share_HW.sum(dim=1)):
        at = torch.arange(len(share), dtype=share.dtype)
        spread = (share * (at - (share * at).sum()).square()).sum() - EDGE_SPREAD
        # A filled ellipse has a variance of a quarter of its half axis squared.
        axes.append(2 * spread.clamp(min=0).sqrt())
    return torch.stack(axes)


def consonants_heard(bands_LK: Tensor, onsets: list[int]) -> list[int]:
    """Which consonant each onset begins with, as places in CONSONANTS: the range that is loudest in its two tokens."""
    energy_LK = bands_LK.exp() - FLOOR
    ranges = [energy_LK[:, bands].sum(dim=-1) for bands in _consonant_bands()]
    loud_CL = torch.stack(ranges)
    return [int(loud_CL[:, token : token + 2].sum(dim=1).argmax()) for token in onsets]


def voice_and_vowels(bands_LK: Tensor, onsets: list[int]) -> tuple[int, list[int]]:
    """The voice, as a place in VOICES, and each syllable's vowel, as places in VOWELS; -1 where nothing is said.

    The voice is the one in which the syllables' bands lie nearest to those of a vowel, whichever it is.
    """
    length = len(bands_LK)
    steady = [
        bands_LK[[min(token + more, length - 1) for more in VOWEL_TOKENS]].mean(dim=0) for token in onsets
    ]
    if not steady:
        return -1, []
    known_VWGK = _known_vowels()
    away_AVW = (torch.stack(steady)[:, None, None, None] - known_VWGK).norm(dim=-1).amin(dim=-1)
    voice = int(away_AVW.amin(dim=-1).sum(dim=0).argmin())
    return voice, away_AVW[:, voice].argmin(dim=-1).tolist()


def onset_tokens(bands_NLK: Tensor) -> list[list[int]]:
    """The tokens in which each clip's syllables are first heard, by the ball world's flux."""
    onsets_NL = events.first_of_each(events.flux(bands_NLK) > ONSET_FLUX, events.ONSET_GAP_TOKENS)
    return [row.nonzero().flatten().tolist() for row in onsets_NL]


@lru_cache(maxsize=1)
def _known_vowels() -> Tensor:
    """Log band energies [V, W, G, K] of every vowel in every voice, at several gains."""
    rate, samples = events.RATE, 4800
    waves = [
        torch.tensor(vowel_wave(hz, vowel, samples, rate)) * gain
        for hz in VOICES.values()
        for vowel in VOWELS
        for gain in GAINS
    ]
    bands = band_energies(torch.stack(waves), rate)[:, 4:-4].mean(dim=1)
    return bands.reshape(len(VOICES), len(VOWELS), len(GAINS), -1)


@lru_cache(maxsize=1)
def _consonant_bands() -> list[list[int]]:
    """The bands that lie within each consonant's frequencies."""
    return [
        [k for k, (low, high) in enumerate(pairwise(BAND_EDGES_HZ)) if high > bottom and low < top]
        for bottom, top in CONSONANTS.values()
    ]
