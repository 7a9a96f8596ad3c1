"""The speaking mouth: a face says syllables; what is said, in whose voice and when can all be checked, seen and heard.

A face of one of four colours says two to four syllables, each a consonant's burst and a vowel. The mouth is closed at
the consonant, then takes the vowel's shape; the voice's pitch goes with the face's colour. Captions name the colour,
the voice and the syllables in order, or only how many, or nothing, and never when.

Shape suffixes: N clips, K syllables of a clip (padded), T frames, H rows, W columns, S samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from ovi_eval.mouth.speech import (
    CLOSED,
    CONSONANT_S,
    SYLLABLES,
    VOICES,
    VOWELS,
    consonant_wave,
    vowel_wave,
)
from ovi_lab.data.worlds import register

if TYPE_CHECKING:
    from ovi_eval.clips.clipset import ClipSet

Array = NDArray[Any]

COLOURS = {
    "red": ((1.0, 0.15, 0.15), "deep"),
    "green": ((0.15, 1.0, 0.15), "low"),
    "blue": ((0.25, 0.35, 1.0), "high"),
    "yellow": ((1.0, 0.9, 0.1), "shrill"),
}
NUMBERS = ("zero", "one", "two", "three", "four")
COUNTS = (2, 3, 4)

# Time.
VOWEL_RANGE_S, LEAST_GAP_S = (0.16, 0.19), 0.36
FIRST_S, LAST_S = 0.05, 0.28  # no syllable begins sooner after the clip's start, or later before its end
RISE_S, FALL_S = 0.04, 0.05  # of the mouth, and of the vowel's loudness (half as long)
# Picture.
FACE_RADIUS, FACE_SHARPNESS, FACE_LEVEL = 8.2, 1.3, 0.85
MOUTH_Y, EYE_Y, EYE_APART, EYE_RADIUS = 10.8, 4.2, 2.9, 1.1
EDGE = 0.45  # pixels over which the mouth's edge goes from skin to dark
SWAY = 0.4
# Sound.
GAIN_RANGE, HISS_LEVEL = (0.8, 1.2), 0.002
HARMONICS_UP_TO_HZ = 700.0  # above, the codec of sound makes voices from noise


@register("speaking_mouth")
class SpeakingMouth:
    """32 frames of 16x16 and 16,200 samples at 8 kHz, as the bouncing ball has: 16 latent frames against 81 tokens."""

    name = "speaking_mouth"
    version = 1
    num_frames, height, width = 32, 16, 16
    sample_rate, num_samples = 8000, 16200
    duration_s = num_samples / sample_rate
    fps = num_frames / duration_s
    vocabulary = (
        *("a", "face", "voice", "says", "syllables", "speaks", "<s>", "<e>"),
        *COLOURS,
        *(voice for _, voice in COLOURS.values()),
        *(NUMBERS[count] for count in COUNTS),
        *SYLLABLES,
    )
    partials_hz = tuple(
        sorted({k * hz for hz in VOICES.values() for k in range(1, int(HARMONICS_UP_TO_HZ / hz) + 1)})
    )

    def render(self, indices: Sequence[int], seed: int) -> ClipSet:
        """The clips of `indices`.

        Args:
            indices: which clips, each >= 0; any subset in any order.
            seed: which world; training and evaluation use different ones.

        Returns:
            ClipSet of frames [N,32,16,16,3] and waves [N,16200]; meta holds colour, pitch_hz, syllables, onsets_s (of
            the consonants), count, told (what the caption says: syllables, number or nothing), seed, index.
        """
        from ovi_eval.clips.clipset import ClipSet

        plans = [_Utterance(seed, int(index), self) for index in indices]
        frames = [self._picture(plan) for plan in plans]
        waves = [self._sound(plan) for plan in plans]
        meta = [plan.meta() for plan in plans]
        return ClipSet(
            ids=[f"{self.name}-{seed}-{plan.index:06d}" for plan in plans],
            captions=[_caption(m) for m in meta],
            frames_NTHWC=torch.from_numpy(
                np.stack(frames) if frames else np.empty((0, self.num_frames, 16, 16, 3), np.uint8)
            ),
            fps=self.fps,
            waves_NS=torch.from_numpy(
                np.stack(waves) if waves else np.empty((0, self.num_samples), np.float32)
            ),
            sample_rate=self.sample_rate,
            meta=meta,
        )

    def _picture(self, plan: _Utterance) -> Array:
        """uint8 [T,H,W,3]: a coloured disc with two eyes and a dark, elliptic mouth."""
        times_T = (np.arange(self.num_frames) + 0.5) / self.fps
        width_T, height_T = np.full_like(times_T, CLOSED[0]), np.full_like(times_T, CLOSED[1])
        for syllable, onset, length in zip(plan.syllables, plan.onsets, plan.lengths, strict=True):
            since_T = times_T - onset - CONSONANT_S
            open_T = np.clip(np.minimum(since_T / RISE_S, (length - since_T) / FALL_S + 1), 0, 1)
            shape = VOWELS[syllable[1]]
            width_T += open_T * (shape.half_width - CLOSED[0])
            height_T += open_T * (shape.half_height - CLOSED[1])
        down_H1 = (np.arange(self.height) + 0.5 - plan.shift[1])[:, None]
        across_W = np.arange(self.width) + 0.5 - plan.shift[0]
        middle = self.width / 2
        face_HW = _soft(
            FACE_SHARPNESS * (FACE_RADIUS - np.hypot(down_H1 - self.height / 2, across_W - middle))
        )
        for side in (-1, 1):
            away_HW = np.hypot(down_H1 - EYE_Y, across_W - (middle + side * EYE_APART))
            face_HW = face_HW * _soft(3 * (away_HW - EYE_RADIUS))
        half_T11, tall_T11 = width_T[:, None, None], height_T[:, None, None]
        radius_THW = np.hypot((across_W - middle) / half_T11, (down_H1 - MOUTH_Y) / tall_T11)
        # The distance to an ellipse, to first order: how far the radius is past 1, over its slope.
        slope_THW = np.hypot((across_W - middle) / half_T11**2, (down_H1 - MOUTH_Y) / tall_T11**2)
        outside_THW = (radius_THW - 1) * radius_THW / np.maximum(slope_THW, 1e-6)
        light_THW = FACE_LEVEL * face_HW * _soft(outside_THW / EDGE)
        scene = light_THW[..., None] * np.array(plan.rgb)
        return np.asarray(np.clip(np.rint(scene * 255), 0, 255), np.uint8)

    def _sound(self, plan: _Utterance) -> Array:
        """float32 [S] in [-1,1]: each syllable's noise and vowel, over hiss."""
        rate = self.sample_rate
        wave_S = HISS_LEVEL * plan.hiss_S
        burst = round(CONSONANT_S * rate)
        fade = np.minimum(1, np.minimum(np.arange(burst) + 1, np.arange(burst, 0, -1)) / (0.004 * rate))
        for number, (syllable, onset, length) in enumerate(
            zip(plan.syllables, plan.onsets, plan.lengths, strict=True)
        ):
            start, samples = round(onset * rate), round(length * rate)
            noise = consonant_wave(syllable[0], plan.noise_KS[number, :burst], rate) * fade
            voice = vowel_wave(plan.pitch_hz, syllable[1], round(VOWEL_RANGE_S[1] * rate), rate)[:samples]
            since = np.arange(samples) / rate
            loud = np.clip(np.minimum(since / (RISE_S / 2), (length - since) / (FALL_S / 2)), 0, 1)
            said = plan.gains[number] * np.concatenate([noise, voice * loud])[: self.num_samples - start]
            wave_S[start : start + len(said)] += said
        return np.asarray(np.clip(wave_S, -1, 1), np.float32)


class _Utterance:
    """The facts of one clip, drawn from its own generator in a fixed order."""

    def __init__(self, seed: int, index: int, world: SpeakingMouth) -> None:
        rng = np.random.default_rng([seed, index])
        self.seed, self.index = seed, index
        self.told = ("syllables", "number", "syllables", "nothing")[index % 4]
        self.colour = list(COLOURS)[int(rng.integers(len(COLOURS)))]
        self.rgb, self.pitch_hz = COLOURS[self.colour][0], VOICES[self.colour]
        count = int(rng.choice(COUNTS))
        self.syllables = [SYLLABLES[i] for i in rng.integers(len(SYLLABLES), size=count)]
        # Every placement with gaps of LEAST_GAP_S or more is as likely as any other.
        free = world.duration_s - FIRST_S - LAST_S - (count - 1) * LEAST_GAP_S
        self.onsets = FIRST_S + np.sort(rng.uniform(0, free, count)) + LEAST_GAP_S * np.arange(count)
        self.lengths = rng.uniform(*VOWEL_RANGE_S, count)
        self.gains = rng.uniform(*GAIN_RANGE, count)
        self.shift = rng.uniform(-SWAY, SWAY, 2)
        self.noise_KS = rng.standard_normal((count, round(CONSONANT_S * world.sample_rate)), np.float32)
        self.hiss_S = rng.standard_normal(world.num_samples, np.float32)

    def meta(self) -> dict[str, Any]:
        return {
            "colour": self.colour,
            "pitch_hz": self.pitch_hz,
            "syllables": list(self.syllables),
            "onsets_s": [float(t) for t in self.onsets],
            "count": len(self.syllables),
            "told": self.told,
            "seed": self.seed,
            "index": self.index,
        }


def _caption(meta: dict[str, Any]) -> str:
    """`a red face deep voice <S>ba di<E>`, `a face says two syllables` or `a face speaks`."""
    if meta["told"] == "nothing":
        return "a face speaks"
    if meta["told"] == "number":
        return f"a face says {NUMBERS[meta['count']]} syllables"
    return f"a {meta['colour']} face {COLOURS[meta['colour']][1]} voice <S>{' '.join(meta['syllables'])}<E>"


def _soft(x: Array) -> Array:
    """The logistic function."""
    return np.asarray(1 / (1 + np.exp(-np.clip(x, -60, 60))))
