"""Sound on its container's clock: silence where packets are missing, overlaps left out.

Timestamps decide, not the number of samples: of ten packets of which one was lost, the last stays where it
was. Deviations of a few milliseconds are ignored, as coarse clocks (mkv: 1 ms) have them everywhere; they do not
add up, since each packet is compared with the clock and not with the one before.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import av
import numpy as np

from ovi_eval.clips import container as bounds
from ovi_eval.errors import UserError

JITTER = 0.005
"""Largest difference in seconds between a packet's time and the end of the samples before it that counts as none; one
and a half of the container's ticks where that is more.
"""
LONGEST_GAP = 5.0
"""Seconds without a packet that become silence; a longer gap is refused."""
MOST_SILENCE = 0.5
"""Share of the sound that may be silence in place of what is missing."""
BACKWARD = 1.0
"""Seconds by which a packet may lie before the end of the sound so far; what overlaps is left out."""
LOUDEST = 2.0**32
"""Largest value of floating-point sound; files scaled as 16 or 32 bit integers are below it."""
_BLOCK = 1 << 16
_PACKED = {"u8": np.uint8, "s16": np.int16, "s32": np.int32, "flt": np.float32, "dbl": np.float64}


class Clock:
    """Iterates over `frames` of decoded sound and yields packed frames without times that follow each other.

    Each has the format, channels and rate of its decoded frame. `start` is the first sample's time (known after
    the first), `filled` the seconds of silence put in so far. Raises UserError naming the file where the clock
    leaves a gap, or goes back, beyond the bounds above, or a sample is not finite.
    """

    def __init__(self, frames: Iterable[Any], ticks: float, shown: str) -> None:
        self._frames, self._shown = frames, shown
        self._jitter = max(JITTER, 1.5 * ticks)
        self._setup: tuple[str, str, int] | None = None
        self._packer: Any = None
        self._base = 0.0
        self._samples = 0
        self.start: float | None = None
        self.filled = 0.0

    @property
    def now(self) -> float:
        """The end of the samples so far, in seconds."""
        return self._base + (self._samples / self._setup[2] if self._setup else 0.0)

    def __iter__(self) -> Iterator[Any]:
        for frame in self._frames:
            time = frame.time
            self._set_up(frame, time)
            skip = 0
            if time is not None:
                off = time - self.now
                if off > self._jitter:
                    yield from self._silence(off)
                elif off < -self._jitter:
                    skip = self._overlap(-off, frame.samples)
            # Without a time the resampler neither drops nor inserts samples.
            frame.pts = None
            for packed in self._packer.resample(frame):
                self._check_numbers(packed)
                if skip < packed.samples:
                    kept = part_of(packed, skip, None) if skip else packed
                    self._samples += kept.samples
                    yield kept
                skip = max(0, skip - packed.samples)
        seconds = self.now - (self.start or 0.0)
        if self.filled > MOST_SILENCE * seconds:
            raise UserError(
                f"{self._shown}: {self.filled:.2f} s of its {seconds:.2f} s of sound are missing (lost packets)"
            )

    def _check_numbers(self, packed: Any) -> None:
        """Refuses values that are not finite, which filters would spread over the whole clip."""
        if packed.format.name in ("flt", "dbl") and not np.abs(packed.to_ndarray()).max(initial=0) <= LOUDEST:
            raise UserError(
                f"{self._shown}: its sound holds values that are not finite or beyond {LOUDEST:.0e} "
                f"at about {self.now:.2f} s; full scale is 1"
            )

    def _set_up(self, frame: Any, time: float | None) -> None:
        setup = (frame.format.name, frame.layout.name, frame.sample_rate)
        if setup == self._setup:
            return
        bounds.check_sound(frame.sample_rate, frame.layout.nb_channels, self._shown)
        if self._setup is None:
            self._base = self.start = time or 0.0
        else:
            self._base = self.now
        self._setup, self._samples = setup, 0
        name = frame.format.packed.name
        self._packer = av.AudioResampler(format=name if name in _PACKED else "dbl")

    def _silence(self, seconds: float) -> Iterator[Any]:
        if seconds > LONGEST_GAP:
            raise UserError(
                f"{self._shown}: its sound has a gap of {seconds:.2f} s at {self.now:.2f} s; "
                f"up to {LONGEST_GAP:g} s become silence"
            )
        _, layout, rate = self._setup  # type: ignore[misc]
        name = self._packer.format.name if self._packer.format else "flt"
        missing = round(seconds * rate)
        self.filled += missing / rate
        channels = av.AudioLayout(layout).nb_channels
        while missing:
            samples = min(missing, _BLOCK)
            values = np.full((1, samples * channels), 128 if name == "u8" else 0, _PACKED[name])
            yield _frame(values, name, layout, rate)
            self._samples += samples
            missing -= samples

    def _overlap(self, seconds: float, samples: int) -> int:
        if seconds > BACKWARD:
            raise UserError(
                f"{self._shown}: its sound's clock goes back by {seconds:.2f} s at {self.now:.2f} s; "
                "write it again with one clock"
            )
        return min(round(seconds * self._setup[2]), samples)  # type: ignore[index]


def part_of(frame: Any, begin: int, end: int | None) -> Any:
    """The samples of a packed frame from `begin` to `end` (None: its last)."""
    values = frame.to_ndarray().reshape(-1, frame.layout.nb_channels)[begin:end].reshape(1, -1)
    return _frame(np.ascontiguousarray(values), frame.format.name, frame.layout.name, frame.sample_rate)


def _frame(values: np.ndarray, name: str, layout: str, rate: int) -> Any:
    frame = av.AudioFrame.from_ndarray(values, format=name, layout=layout)
    frame.sample_rate = rate
    return frame
