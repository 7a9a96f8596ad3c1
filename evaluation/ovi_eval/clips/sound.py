"""A file's sound on the clip's clock: streamed in blocks, decoded whole, or as published scripts convert it.

Shapes: C channels, S samples.

Sound of another rate is resampled by FFmpeg's resampler with its default filter, each channel by itself, and then mixed
to one channel by FFmpeg's standard matrix (ITU-R BS.775's weights, scaled so that nothing clips; of stereo that is the
mean).
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from torch import Tensor

from ovi_eval.clips import container as bounds
from ovi_eval.clips.clock import Clock, part_of
from ovi_eval.clips.completeness import StreamTimes, check_complete
from ovi_eval.errors import UserError


@dataclass(frozen=True)
class Audio:
    """Decoded sound: wave [S] float32 ([C, S] with all channels); `start` in seconds.

    `filled`: seconds of silence in place of lost packets.
    """

    wave_S: Tensor
    sample_rate: int
    start: float
    filled: float = 0.0

    @property
    def end(self) -> float:
        return self.start + self.wave_S.shape[-1] / self.sample_rate


@contextmanager
def _decoding(
    source: str | Path | bytes, name: str | None, cut_off: bool = False
) -> Iterator[tuple[Clock, Any, str, StreamTimes]]:
    """The frames of one file's sound on its clock, the stream, the name of the container's format, and the packets'
    times.
    """
    times = check_complete(source, "audio", name, cut_off)
    with bounds.opened(source, name) as (container, shown):
        stream = bounds.sound_stream(container, shown)
        with closing(frame for frame in container.decode(stream) if frame.samples) as frames:
            yield Clock(frames, float(stream.time_base or 0), shown), stream, container.format.name, times


class _Resampler:
    """Packed frames of any setup, one after the other, to one rate and format: a new resampler for each setup."""

    def __init__(self, format_name: str, rate: int, layout: str | None) -> None:
        self._format, self._rate, self._layout = format_name, rate, layout
        self._setup: tuple[str, str, int] | None = None
        self._inner: Any = None

    def __call__(self, frame: Any) -> list[Any]:
        """The samples that are ready after this frame; None flushes."""
        out: list[Any] = []
        setup = None if frame is None else (frame.format.name, frame.layout.name, frame.sample_rate)
        if setup != self._setup and self._inner is not None:
            out += self._inner.resample(None)
            self._inner = None
        if frame is not None:
            if self._inner is None:
                self._inner = av.AudioResampler(format=self._format, rate=self._rate, layout=self._layout)
            out += self._inner.resample(frame)
        self._setup = setup
        return [part for part in out if part is not None and part.samples]


class SoundStream:
    """The sound of one file as it is decoded: `with SoundStream(path, 16000) as sound: wave_S = sound.read(16000)`.

    float32 at `sample_rate` (None: the file's own): one channel [S], or all [C, S] with `mono=False`, those of the
    first packet where they change. Gaps are silence, see `clock`. `start` is the first sample's time in seconds on
    the container's clock, which the file's picture shares, known from the beginning, and so is `ends`, when the last
    packet does; `filled` is how many seconds of silence stand for lost packets so far. Nothing but what `read` has not
    yet taken is kept.

    With `cut_off` a file that is cut off is no error: its sound ends there, and `cut` says where and why. Sound from
    `cut.until` on may be damaged.

    Raises UserError naming the file: on entering, where it is unreadable, holds no sound, is cut off or out of bounds;
    while reading, where it cannot be decoded further or its clock leaves the bounds.
    """

    def __init__(
        self,
        source: str | Path | bytes,
        sample_rate: int | None = None,
        *,
        name: str | None = None,
        mono: bool = True,
        cut_off: bool = False,
    ) -> None:
        self.shown = bounds.shown_name(source, name)
        self._source, self._name, self._cut_off = source, name, cut_off
        self._wanted_rate, self._mono = sample_rate, mono
        self._kept: list[Tensor] = []

    def __enter__(self) -> SoundStream:
        with ExitStack() as stack:
            self._clock, _, _, times = stack.enter_context(_decoding(self._source, self._name, self._cut_off))
            self.ends, self.cut = times.end or 0.0, times.cut
            self._parts = stack.enter_context(closing(self._decoded()))
            first = next(self._parts, None)
            if first is None:
                raise UserError(f"{self.shown}: its sound stream holds no sample")
            self._kept.append(first)
            self._nothing = first[..., :0]
            self._open = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._open.close()

    @property
    def start(self) -> float:
        return self._clock.start or 0.0

    @property
    def filled(self) -> float:
        return self._clock.filled

    def __iter__(self) -> Iterator[Tensor]:
        """The remaining sound in blocks as they are decoded."""
        while self._kept:
            yield self._kept.pop(0)
        yield from self._parts

    def read(self, samples: int) -> Tensor:
        """The next `samples` [S] or [C, S]; fewer, down to none, where the sound ends."""
        have = sum(part.shape[-1] for part in self._kept)
        while have < samples and (part := next(self._parts, None)) is not None:
            self._kept.append(part)
            have += part.shape[-1]
        if not self._kept:
            self._kept.append(self._nothing)
        whole = torch.cat(self._kept, dim=-1) if len(self._kept) > 1 else self._kept[0]
        self._kept = [whole[..., samples:].clone()] if whole.shape[-1] > samples else []
        self._nothing = whole[..., :0]
        return whole[..., :samples]

    def begin_at(self, time: float) -> None:
        """Moves to `time` (seconds on the clip's clock), with silence where the sound has not begun.

        To be called before anything is read, with the first frame's time: as frames do, sound then counts from there.
        """
        late = round((self.start - time) * self.sample_rate)
        if late < 0:
            self.read(-late)
        elif late:
            if late > bounds.MAX_SECONDS * self.sample_rate:
                raise UserError(
                    f"{self.shown}: its sound begins {late / self.sample_rate:.0f} s after its picture"
                )
            self._kept.insert(0, self._kept[0].new_zeros((*self._kept[0].shape[:-1], late)))

    def _decoded(self) -> Generator[Tensor]:
        resample: _Resampler | None = None
        layout = ""
        frames = iter(self._clock)
        while True:
            with bounds.guarded(self.shown):
                frame = self._next(frames)
                if frame is not None and resample is None:
                    self.sample_rate = int(self._wanted_rate or frame.sample_rate)
                    layout = frame.layout.name
                    resample = _Resampler("flt", self.sample_rate, None if self._mono else layout)
                parts = resample(frame) if resample is not None else []
            for part in parts:
                wave_CS = torch.from_numpy(part.to_ndarray().reshape(part.samples, -1).T.copy())
                yield mixed(wave_CS, part.layout.name) if self._mono else wave_CS
            if frame is None:
                return

    def _next(self, frames: Iterator[Any]) -> Any:
        """The next frame; None after the last, and where one that is cut off cannot be decoded."""
        try:
            return next(frames, None)
        except av.FFmpegError:
            if self.cut is None:
                raise
            return None


def mixed(wave_CS: Tensor, layout: str) -> Tensor:
    """Channels [C, S] to one [S], as FFmpeg weighs them where nothing may clip; of stereo the mean."""
    if wave_CS.shape[0] <= 2:
        return wave_CS.mean(dim=0)
    return torch.tensor(_weights(layout, wave_CS.shape[0]), dtype=wave_CS.dtype) @ wave_CS


@cache
def _weights(layout: str, channels: int) -> list[float]:
    """FFmpeg's own matrix, measured with one impulse per channel; the mean where it knows none for a layout."""
    one = 1 << 30
    impulses = np.eye(channels, dtype=np.int32) * one
    try:
        frame = av.AudioFrame.from_ndarray(impulses.reshape(1, -1), format="s32", layout=layout)
        frame.sample_rate = 48_000
        resampler = av.AudioResampler(format="s32", layout="mono", rate=48_000)
        parts = [*resampler.resample(frame), *resampler.resample(None)]
        found = np.concatenate([part.to_ndarray()[0] for part in parts]) / one
    except (av.FFmpegError, ValueError):
        found = np.full(channels, 1 / channels)
    return [float(weight) for weight in found]


def decode_audio(
    source: str | Path | bytes,
    sample_rate: int | None = None,
    *,
    name: str | None = None,
    mono: bool = True,
) -> Audio:
    """All sound on its clock, float32, at `sample_rate` (None: the file's own).

    One channel [S], or every channel [C, S] with `mono=False`; as `SoundStream` has it. Raises UserError naming the
    file where it is unreadable, has no sound stream or no sample, is cut off, or does not fit into memory.
    """
    parts, held = [], 0
    with SoundStream(source, sample_rate, name=name, mono=mono) as sound:
        for part in sound:
            held += part.nbytes
            if held > bounds.MAX_BYTES:
                raise UserError(
                    f"{sound.shown}: its sound takes more than {bounds.MAX_BYTES >> 30} GiB of memory"
                )
            parts.append(part)
        return Audio(torch.cat(parts, dim=-1), sound.sample_rate, sound.start, sound.filled)


def decode_pcm16(source: str | Path | bytes, sample_rate: int, *, name: str | None = None) -> np.ndarray:
    """All sound as published scripts have FFmpeg write it to a WAV file: [S] int16, one channel, at `sample_rate`.

    The same samples as `ffmpeg -i FILE -ac 1 -ar RATE -c:a pcm_s16le` of FFmpeg 9: channels mixed and resampled by its
    resampler in one go, and the last frame cut where an mp4 says that its sound ends, which older versions of the
    command line do not do. Gaps are silence, see `clock`. Raises UserError as `decode_audio`.
    """
    parts: list[np.ndarray] = []
    with _decoding(source, name) as (clock, stream, format_name, _):
        resample = _Resampler("s16", sample_rate, "mono")
        ends = None
        if format_name.startswith("mov") and stream.duration and stream.time_base is not None:
            ends = Fraction(stream.duration * stream.time_base)
        for frame in clock:
            if ends is not None:
                left = round(ends * frame.sample_rate)
                if left <= 0:
                    break
                if frame.samples > left:
                    frame = part_of(frame, 0, left)
                ends -= Fraction(frame.samples, frame.sample_rate)
            parts += [out.to_ndarray()[0] for out in resample(frame)]
        parts += [out.to_ndarray()[0] for out in resample(None)]
        if not sum(len(part) for part in parts):
            raise UserError(f"{bounds.shown_name(source, name)}: its sound stream holds no sample")
    return np.concatenate(parts)
