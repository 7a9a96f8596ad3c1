"""A file's frames, upright, with square pixels, in RGB, each with its time.

Shapes: T frames, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ovi_eval.clips import container as bounds
from ovi_eval.clips import timing
from ovi_eval.clips.completeness import Cut, check_complete
from ovi_eval.clips.frame import Upright
from ovi_eval.errors import UserError

STILL_FPS = 25.0
BACKWARD = 0.5
"""Seconds by which a frame's time may lie before the one ahead of it; it is then seen at that one's time."""


@dataclass(frozen=True)
class Video:
    """Decoded picture: frames [T, H, W, 3] uint8 RGB, upright, each frame's time [T] float64 in seconds.

    `fps` follows from the times: the rate of evenly spaced frames, else the mean number of frames a second.
    `end` is the end of the last frame, on the clock of the times.
    """

    frames_THWC: Tensor
    fps: float
    times_T: Tensor
    end: float = float("nan")

    def __post_init__(self) -> None:
        if self.end != self.end:
            object.__setattr__(self, "end", float(self.times_T[-1]) + 1 / self.fps)

    @property
    def seconds(self) -> float:
        """Seconds from the first frame's time to the last frame's end."""
        return self.end - float(self.times_T[0])

    @property
    def even(self) -> bool:
        """Whether frames are evenly spaced: frame n at n / fps, the last one as long as any."""
        regular = float(self.times_T[0]) + len(self.times_T) / self.fps
        return abs(self.end - regular) * self.fps < 0.5 and timing.is_even(self.times_T, self.fps)

    def seen(self, fps: float, count: int | None = None) -> Tensor:
        """Numbers [N] int64 of the frames seen at n / fps after the first: `count` of them, else to the picture's
        end.
        """
        count = timing.count_at(self.seconds, fps) if count is None else count
        return timing.seen(self.times_T, fps, count)

    def constant(self) -> Video:
        """The same at a constant rate: itself where it is, else frames repeated at their shortest usual spacing.

        Raises UserError where that would not fit into memory.
        """
        if self.even:
            return self
        fps = timing.grid_rate(self.times_T, 1e-3)
        places_N = self.seen(fps)
        if len(places_N) * self.frames_THWC[0].nbytes > bounds.MAX_BYTES:
            raise UserError(
                f"its picture lasts {self.seconds:.0f} s; at {fps:g} frames a second it does not fit into memory"
            )
        times_N = self.times_T[0] + torch.arange(len(places_N), dtype=torch.float64) / fps
        return Video(self.frames_THWC[places_N], fps, times_N)


class PictureStream:
    """The frames of one file as they are decoded: `with PictureStream(path) as picture: for time, frame in picture`.

    Times are seconds on the container's clock, which the file's sound shares, and never fall. `frame` is
    [H, W, 3] uint8 RGB, or what `transform` makes of it; all have the first one's size. Nothing is kept but each
    frame's time, so memory does not grow with the file. It can be iterated once.

    `start` is the first frame's time, known from the beginning; `end` (when the last frame ends), `fps` (what the
    times say) and `times_T` are those of the frames taken so far. `spans` is how many seconds the packets' times span,
    known before anything is decoded, `tick` the seconds of a tick of the container's clock, to which times are rounded.
    `size` is the height and width of the frames before `transform`.

    With `cut_off` a file that is cut off or damaged is no error: it ends with the last frame before which none is
    missing, and `cut` says why; of a damage when it has been reached.

    Raises UserError naming the file: on entering, where it is unreadable, holds no picture, is cut off (the whole
    file's timestamps are read first, without decoding) or out of bounds; while iterating, where it cannot be decoded
    further.
    """

    def __init__(
        self,
        source: str | Path | bytes,
        *,
        name: str | None = None,
        transform: Callable[[Tensor], Tensor] | None = None,
        cut_off: bool = False,
    ) -> None:
        self.shown = bounds.shown_name(source, name)
        self._source, self._name, self._transform, self._cut_off = source, name, transform, cut_off
        self._times: list[float] = []
        self._last_duration = 0.0

    def __enter__(self) -> PictureStream:
        track = check_complete(self._source, "video", self._name, self._cut_off)
        self.spans, self._cut = track.seconds, track.cut
        with ExitStack() as stack:
            container, _ = stack.enter_context(bounds.opened(self._source, self._name))
            self._stream = bounds.picture_stream(container, self.shown)
            self._upright = Upright(self.shown)
            self.tick = float(self._stream.time_base or 0)
            rates = (self._stream.average_rate, self._stream.guessed_rate)
            self._stated = [Fraction(rate) for rate in rates if rate]
            # An avi holds no presentation times; FFmpeg's guess is late by the frames that a decoder may hold back.
            self._begins = track.decoded_from if container.format.name == "avi" else None
            self._late = 0.0
            self._decoded = self._decode(container)
            stack.callback(self._release)
            self._first = next(self._decoded, None)
            if self._first is None:
                raise UserError(f"{self.shown}: its picture stream holds no frame")
            self._open = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._open.close()

    def _release(self) -> None:
        # References to the stream keep its decoder, and with it threads that a forked process would wait for.
        self._decoded.close()
        self._stream = None

    @property
    def start(self) -> float:
        return self._times[0]

    @property
    def cut(self) -> str | None:
        return None if self._cut is None else self._cut.reason

    @property
    def size(self) -> tuple[int, int]:
        return self._upright.size

    @property
    def times_T(self) -> Tensor:  # noqa: N802
        return torch.tensor(self._times, dtype=torch.float64)

    @property
    def end(self) -> float:
        return self._end_and_rate()[0]

    @property
    def fps(self) -> float:
        return self._end_and_rate()[1]

    def __iter__(self) -> Iterator[tuple[float, Tensor]]:
        first, self._first = self._first, None
        if first is not None:
            yield first
            yield from self._decoded

    def at_rate(self, fps: float) -> Iterator[Tensor]:
        """The frames seen at n / fps seconds after the first, to the picture's end: see `timing.seen`."""
        return timing.at_rate(self, fps, lambda: self.end)

    def _decode(self, container: Any) -> Generator[tuple[float, Tensor]]:
        decoded = container.decode(self._stream)
        while True:
            frame = self._next(decoded)
            if frame is None:
                return
            with bounds.guarded(self.shown):
                time = self._time(frame)
                picture = self._upright(frame, self._stream.sample_aspect_ratio)
                if self._transform is not None:
                    picture = self._transform(picture)
            if self._cut and self._times and time >= self._cut.until - self._late:
                return
            if len(self._times) >= bounds.MAX_FRAMES:
                raise UserError(f"{self.shown}: has more than {bounds.MAX_FRAMES} frames")
            self._times.append(time)
            self._last_duration = float((getattr(frame, "duration", 0) or 0) * (frame.time_base or 0))
            yield time, picture

    def _next(self, decoded: Iterator[Any]) -> Any:
        """The next frame; None after the last."""
        try:
            with bounds.guarded(self.shown):
                return next(decoded, None)
        except UserError as error:
            if not self._cut_off or not self._times:
                raise
            self._cut = self._cut or Cut(self._times[-1], str(error))
            return None

    def _time(self, frame: Any) -> float:
        time = frame.time
        if time is None and frame.dts is not None:
            time = float(frame.dts * self._stream.time_base)
        if not self._times:
            if self._begins is not None and time is not None:
                self._late = max(0.0, time - self._begins)
            return (time or 0.0) - self._late
        time = None if time is None else time - self._late
        before = self._times[-1]
        if time is None:
            return before + 1 / float(self._stated[0] if self._stated else STILL_FPS)
        if time < before - BACKWARD:
            raise UserError(
                f"{self.shown}: its picture's clock goes back from {before:.3f} s to {time:.3f} s; "
                "write it again with one clock"
            )
        if time - self._times[0] > bounds.MAX_SECONDS:
            raise UserError(
                f"{self.shown}: its picture lasts more than {bounds.MAX_SECONDS / 3600:.0f} hours"
            )
        return max(time, before)

    def _end_and_rate(self) -> tuple[float, float]:
        times_T, last_duration, stated = self.times_T, self._last_duration, self._stated
        if len(times_T) == 1:
            rate = 1 / last_duration if last_duration > 0 else float(stated[0]) if stated else STILL_FPS
            return self.start + 1 / rate, rate
        rate_or_none = timing.even_rate(times_T, self.tick, stated)
        if rate_or_none is not None:
            lasts = last_duration if last_duration * rate_or_none > 1.5 else 1 / rate_or_none
            return self.start + (len(times_T) - 1) / rate_or_none + lasts, rate_or_none
        usual = float(times_T.diff().median())
        end = float(times_T[-1]) + (last_duration if last_duration > 0 else usual)
        if end <= self.start:
            raise UserError(
                f"{self.shown}: all of its frames have the same time; write it again with a clock"
            )
        return end, len(times_T) / (end - self.start)


def decode_video(
    source: str | Path | bytes,
    *,
    name: str | None = None,
    transform: Callable[[Tensor], Tensor] | None = None,
) -> Video:
    """All frames of the picture, as `PictureStream` has them.

    `source`: a path, or a file's bytes (with `name` for errors). `transform` maps each frame
    [H, W, 3] uint8 as it comes, so that a crop or a smaller size keeps long clips out of memory.
    Raises UserError naming the file where it is unreadable, has no picture stream or no frame, is cut off, or does not
    fit into memory.
    """
    frames, held = [], 0
    with PictureStream(source, name=name, transform=transform) as picture:
        for _, frame in picture:
            held += frame.nbytes
            if held > bounds.MAX_BYTES:
                raise UserError(
                    f"{picture.shown}: its frames take more than {bounds.MAX_BYTES >> 30} GiB of memory; "
                    "cut it into shorter clips or make it smaller"
                )
            frames.append(frame)
        return Video(torch.stack(frames), picture.fps, picture.times_T, picture.end)
