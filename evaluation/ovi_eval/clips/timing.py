"""The frame seen at each moment, and the rate of frames, by the frames' own times.

Shapes: T frames, N moments.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from typing import TypeVar

import torch
from torch import Tensor

Picture = TypeVar("Picture")

EVEN = 0.3
"""Largest deviation from even spacing that counts as even, as a share of a frame."""
STANDARD_RATES = tuple(
    sorted({Fraction(n) for n in range(1, 121)} | {Fraction(n * 1000, 1001) for n in (24, 30, 48, 60, 120)})
)
"""The exact frames a second of a measured rate, where a container's ticks cannot distinguish the two."""
_HAIR = 1e-6


def tick(seconds: float, fps: float) -> int:
    """The number of the moment n / fps that is nearest, halves up. Times are kept in microseconds or so, so what is
    a hair below a half is one.
    """
    return math.floor(seconds * fps + 0.5 + _HAIR)


def count_at(end: float, fps: float) -> int:
    """Number of frames at `fps` of a picture of `end` seconds; one at least."""
    return max(tick(end, fps), 1)


def seen(times_T: Tensor, fps: float, count: int) -> Tensor:
    """Numbers [count] int64 of the frames seen at n / fps seconds after the first.

    It is the last whose time, rounded to the nearest such moment (halves up), is no later, as FFmpeg's fps filter
    and SyncNet's release have it: frames are repeated or left out.
    """
    ticks_T = torch.floor((times_T.double() - times_T[0]) * fps + 0.5 + _HAIR)
    moments_N = torch.arange(count, dtype=torch.float64)
    # Of frames at one moment the last is seen, so ticks must not fall.
    return (torch.searchsorted(ticks_T.cummax(0).values, moments_N, right=True) - 1).clamp(
        0, len(times_T) - 1
    )


def at_rate(frames: Iterable[tuple[float, Picture]], fps: float, end: object) -> Iterator[Picture]:
    """`seen` of frames (time, picture) as they come, one at a time; `end()`, called last, says when they end.

    Nothing but the picture seen last is kept.
    """
    first: float | None = None
    before: Picture | None = None
    shown = 0
    for time, picture in frames:
        if first is None:
            first = time
        for _ in range(shown, tick(time - first, fps)):
            yield before  # type: ignore[misc]
            shown += 1
        before = picture
    if first is not None:
        for _ in range(shown, count_at(end() - first, fps)):  # type: ignore[operator]
            yield before  # type: ignore[misc]


def evenness(times_T: Tensor, fps: float) -> float:
    """Largest deviation of the times from n / fps after the first, in seconds."""
    even_T = torch.arange(len(times_T), dtype=torch.float64) / fps
    return float((times_T.double() - times_T[0] - even_T).abs().max())


def is_even(times_T: Tensor, fps: float) -> bool:
    """Whether frames are evenly spaced, so that frame n can be taken to be at n / fps after the first."""
    return evenness(times_T, fps) <= EVEN / fps


def even_rate(times_T: Tensor, ticks: float, stated: Sequence[Fraction]) -> float | None:
    """Frames a second of evenly spaced frames [T >= 2]; None where they are not.

    A standard rate (the one stated, else the nearest), else another that is stated, where every time confirms it to the
    container's tick of `ticks` seconds; else the mean of the times.
    """
    span = float(times_T[-1] - times_T[0])
    if span <= 0:
        return None
    measured = (len(times_T) - 1) / span
    near = [rate for rate in STANDARD_RATES if abs(rate / measured - 1) < 0.05]
    near.sort(key=lambda rate: (rate not in stated, abs(rate - measured)))
    for rate in (*near, *stated):
        if rate > 0 and evenness(times_T, float(rate)) <= 1.5 * ticks + _HAIR:
            return float(rate)
    return measured if is_even(times_T, measured) else None


def grid_rate(times_T: Tensor, ticks: float) -> float:
    """The constant rate at which unevenly spaced frames [T >= 2] are laid out with nothing lost, at most 120 a second.

    That of their shortest usual spacing, the tenth part of all, as a standard rate where ticks allow one.
    """
    apart_T = times_T.double().diff()
    apart_T = apart_T[apart_T > _HAIR]
    if not len(apart_T):
        return 25.0
    shortest = float(apart_T.kthvalue(1 + len(apart_T) // 10).values)
    near = [rate for rate in STANDARD_RATES if abs(1 / rate - shortest) <= ticks + 0.002 * shortest]
    places_T = times_T.double() - times_T[0]

    def off_grid(rate: float) -> float:
        places = places_T * rate
        return float((places - places.round()).abs().mean())

    measured = min(1 / shortest, 120.0)
    return min([*map(float, near), measured], key=lambda rate: round(off_grid(rate), 4))
