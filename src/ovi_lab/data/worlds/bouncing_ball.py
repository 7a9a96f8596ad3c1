"""The bouncing ball: each landing flashes the floor and strikes a drum; timing and content can both be checked.

A ball of one of four colours bounces; its drum's pitch goes with the colour. The caption states the content (in
the vague half not even that), never the timing.

Shape suffixes: N clips, K landings of a clip (padded), T frames, H rows, W columns, S samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from ovi_lab.data.worlds import register

if TYPE_CHECKING:
    from ovi_eval.clips.clipset import ClipSet

Array = NDArray[Any]

COLOURS = {
    "red": ((1.0, 0.15, 0.15), 350.0, "low"),
    "green": ((0.15, 1.0, 0.15), 600.0, "middle"),
    "blue": ((0.25, 0.35, 1.0), 1000.0, "high"),
    "yellow": ((1.0, 0.9, 0.1), 1600.0, "piercing"),
}
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven")

# Picture.
GROUND_Y, APEX, REFERENCE_GAP_S = 10.0, 6.8, 0.9
BALL_RADIUS, BALL_SHARPNESS = 2.6, 1.3
FLOOR_ROWS, FLOOR_LEVEL, FLASH_LEVEL, FLASH_DECAY_S = 3, 0.12, 0.85, 0.11
# Sound.
TONE_DECAY_S, TONE_LEVELS = 0.10, (0.6, 0.2)
BURST_LEVEL, BURST_DECAY_S = 0.25, 0.012
HUM_HZ, HUM_RANGE, HISS_LEVEL = 110.0, (0.02, 0.06), 0.002
# Time.
FIRST_LANDING_S, GAP_RANGE_S = 0.9, (0.40, 0.90)
_CHUNK = 64  # clips rendered at once: their arrays stay in the cache


@register("bouncing_ball")
class BouncingBall:
    """32 frames of 16x16 and 16,200 samples at 8 kHz: 2.025 s, 16 latent frames against 81 audio tokens."""

    name = "bouncing_ball"
    version = 1
    num_frames, height, width = 32, 16, 16
    sample_rate, num_samples = 8000, 16200
    duration_s = num_samples / sample_rate
    fps = num_frames / duration_s
    vocabulary = (
        *("a", "ball", "bounces", "times", "drum"),
        *COLOURS,
        *(pitch for _, _, pitch in COLOURS.values()),
        *NUMBERS[2:],
    )
    partials_hz = (HUM_HZ, *(k * hz for _, hz, _ in COLOURS.values() for k in (1.0, 2.0)))

    def render(self, indices: Sequence[int], seed: int) -> ClipSet:
        """The clips of `indices`.

        Args:
            indices: which clips, each >= 0; any subset in any order.
            seed: which world; training and evaluation use different ones.

        Returns:
            ClipSet of frames [N,32,16,16,3] and waves [N,16200]; meta holds colour, pitch_hz, landings_s (inside the
            clip), count, vague, seed, index.
        """
        from ovi_eval.clips.clipset import ClipSet

        numbers = [int(i) for i in indices]
        frames_NTHWC = np.empty((len(numbers), self.num_frames, self.height, self.width, 3), np.uint8)
        waves_NS = np.empty((len(numbers), self.num_samples), np.float32)
        meta: list[dict[str, Any]] = []
        for start in range(0, len(numbers), _CHUNK):
            part = slice(start, min(start + _CHUNK, len(numbers)))
            plans = [_Plan(seed, index, self.duration_s, self.num_samples) for index in numbers[part]]
            frames_NTHWC[part] = self._picture(plans)
            waves_NS[part] = self._sound(plans)
            meta += [plan.meta() for plan in plans]
        return ClipSet(
            ids=[f"{self.name}-{seed}-{index:06d}" for index in numbers],
            captions=[_caption(m) for m in meta],
            frames_NTHWC=torch.from_numpy(frames_NTHWC),
            fps=self.fps,
            waves_NS=torch.from_numpy(waves_NS),
            sample_rate=self.sample_rate,
            meta=meta,
        )

    def _picture(self, plans: list[_Plan]) -> Array:
        """uint8 [N,T,H,W,3]: the soft disc on a dim floor that glows in its colour after a landing."""
        times_T = (np.arange(self.num_frames) + 0.5) / self.fps
        landings_NK = _padded([p.landings for p in plans])
        rgb_NC = np.array([p.rgb for p in plans], np.float32)
        x_N = np.array([p.x for p in plans], np.float32)

        since_NTK = times_T[None, :, None] - landings_NK[:, None, :]
        landed_NTK = since_NTK >= 0
        glow_NT = np.where(landed_NTK, np.exp(-np.maximum(since_NTK, 0) / FLASH_DECAY_S), 0.0).sum(-1)

        last_NT = landed_NTK.sum(-1) - 1  # the first landing is never after the clip's start
        before_NT = np.take_along_axis(landings_NK, last_NT, 1)
        gap_NT = np.take_along_axis(landings_NK, last_NT + 1, 1) - before_NT
        phase_NT = (times_T[None] - before_NT) / gap_NT
        rise_NT = APEX * (gap_NT / REFERENCE_GAP_S) ** 2
        y_NT = (GROUND_Y - 4 * rise_NT * phase_NT * (1 - phase_NT)).astype(np.float32)

        rows_H = np.arange(self.height, dtype=np.float32) + 0.5
        columns_W = np.arange(self.width, dtype=np.float32) + 0.5
        down_NTH1 = (rows_H - y_NT[..., None])[..., None]
        across_N11W = (columns_W - x_N[:, None])[:, None, None]
        distance_NTHW = np.sqrt(down_NTH1**2 + across_N11W**2)
        ball_NTHW1 = (1 / (1 + np.exp(BALL_SHARPNESS * (distance_NTHW - BALL_RADIUS))))[..., None]

        floor_NTC = FLOOR_LEVEL + FLASH_LEVEL * glow_NT[..., None] * rgb_NC[:, None]
        scene = np.zeros((*distance_NTHW.shape, 3), np.float32)
        scene[:, :, -FLOOR_ROWS:] = floor_NTC[:, :, None, None]
        scene += ball_NTHW1 * (rgb_NC[:, None, None, None] - scene)
        return np.asarray(np.clip(np.rint(scene * 255), 0, 255), np.uint8)

    def _sound(self, plans: list[_Plan]) -> Array:
        """float32 [N,S] in [-1,1]: a decaying two-partial tone and a burst per landing, over hum and hiss.

        All the earlier hits still ring at a landing, at the same frequency: their sum is one decaying phasor,
        so each sample needs one exponential and one phase whatever the number of hits.
        """
        times_S = np.arange(self.num_samples) / self.sample_rate
        shape = (len(plans), self.num_samples)
        since_NS = np.empty(shape, np.float32)
        ring_NS = [np.empty(shape, np.complex64) for _ in TONE_LEVELS]
        pitch_N1 = np.array([[p.pitch_hz] for p in plans], np.float32)
        for n, plan in enumerate(plans):
            starts = np.clip(np.ceil(plan.landings * self.sample_rate), 0, self.num_samples).astype(int)
            lengths = np.diff(np.append(starts, self.num_samples))
            since_NS[n] = times_S - np.repeat(plan.landings, lengths)
            gaps = np.diff(plan.landings)
            for partial, ring in enumerate(ring_NS, 1):
                decay = np.exp(gaps * (-1 / TONE_DECAY_S + 2j * np.pi * partial * plan.pitch_hz))
                amplitudes = np.ones(len(plan.landings), np.complex64)
                for k, factor in enumerate(decay, 1):
                    amplitudes[k] += factor * amplitudes[k - 1]
                ring[n] = np.repeat(amplitudes, lengths)

        angle_NS = (2 * np.pi) * np.remainder(since_NS * pitch_N1, 1.0)
        sin1_NS, cos1_NS = np.sin(angle_NS), np.cos(angle_NS)
        sin2_NS, cos2_NS = 2 * sin1_NS * cos1_NS, 1 - 2 * sin1_NS * sin1_NS
        wave_NS = TONE_LEVELS[0] * (ring_NS[0].real * sin1_NS + ring_NS[0].imag * cos1_NS)
        wave_NS += TONE_LEVELS[1] * (ring_NS[1].real * sin2_NS + ring_NS[1].imag * cos2_NS)
        wave_NS *= np.exp(since_NS / -TONE_DECAY_S)
        wave_NS += BURST_LEVEL * np.exp(since_NS / -BURST_DECAY_S) * np.stack([p.burst_S for p in plans])
        wave_NS += HISS_LEVEL * np.stack([p.hiss_S for p in plans])
        hum_N1 = np.array([[p.hum] for p in plans], np.float32)
        phase_N1 = np.array([[p.hum_phase] for p in plans])
        wave_NS += hum_N1 * np.sin(2 * np.pi * HUM_HZ * times_S + phase_N1).astype(np.float32)
        return np.asarray(np.clip(wave_NS, -1, 1), np.float32)


class _Plan:
    """The facts of one clip, drawn from its own generator in a fixed order."""

    def __init__(self, seed: int, index: int, duration_s: float, num_samples: int) -> None:
        rng = np.random.default_rng([seed, index])
        self.seed, self.index, self.duration_s = seed, index, duration_s
        self.vague = index % 2 == 1
        self.colour = list(COLOURS)[int(rng.integers(len(COLOURS)))]
        self.rgb, self.pitch_hz, _ = COLOURS[self.colour]
        landings = [-float(rng.uniform(0, FIRST_LANDING_S))]
        if landings[0] >= 0:  # a landing before the clip's start is needed for the ball's path
            landings.insert(0, landings[0] - float(rng.uniform(*GAP_RANGE_S)))
        while landings[-1] < duration_s:
            landings.append(landings[-1] + float(rng.uniform(*GAP_RANGE_S)))
        self.landings = np.array(landings)  # the last one, after the end, closes the ball's path
        self.x = float(rng.uniform(6.5, 9.5))
        self.hum = float(rng.uniform(*HUM_RANGE))
        self.hum_phase = float(rng.uniform(0, 2 * np.pi))
        self.burst_S = rng.standard_normal(num_samples, np.float32)
        self.hiss_S = rng.standard_normal(num_samples, np.float32)

    def meta(self) -> dict[str, Any]:
        inside = self.landings[(self.landings >= 0) & (self.landings < self.duration_s)]
        return {
            "colour": self.colour,
            "pitch_hz": self.pitch_hz,
            "landings_s": [float(t) for t in inside],
            "count": len(inside),
            "vague": self.vague,
            "seed": self.seed,
            "index": self.index,
        }


def _caption(meta: dict[str, Any]) -> str:
    """`a red ball bounces three times low drum`; the vague ones leave out the colour and the pitch."""
    times = f"bounces {NUMBERS[meta['count']]} times"
    if meta["vague"]:
        return f"a ball {times} drum"
    return f"a {meta['colour']} ball {times} {COLOURS[meta['colour']][2]} drum"


def _padded(rows: list[Array]) -> Array:
    """[N,K] of rows of unequal length, padded with a time that is never reached."""
    filled = np.full((len(rows), max(map(len, rows))), 1e9)
    for row, values in zip(filled, rows, strict=True):
        row[: len(values)] = values
    return filled
