"""Picture and sound read from any container that FFmpeg reads, and written as mp4.

Shapes: N clips, T frames, H rows, W columns, C channels of sound, S samples.

Everything is decoded by PyAV. Sound of another rate is resampled by FFmpeg's resampler with its default
filter, each channel by itself, and then mixed to one channel by the mean (FFmpeg's own mix of float stereo
would be louder).
"""

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from torch import Tensor

from .clipset import FAILED, ClipSet
from .errors import EvalError
from .files import written_whole

__all__ = [
    "FAILED",
    "Audio",
    "Clip",
    "ClipSet",
    "Video",
    "aligned",
    "decode_audio",
    "decode_video",
    "fit_length",
    "read_clip",
    "resample",
    "write_mp4",
]


@dataclass(frozen=True)
class Video:
    """Decoded picture: frames [T, H, W, 3] uint8 RGB, upright; each frame's time [T] float64, seconds."""

    frames_THWC: Tensor
    fps: float
    times_T: Tensor


@dataclass(frozen=True)
class Audio:
    """Decoded sound: wave [S] float32 ([C, S] where channels were asked for); `start` in seconds."""

    wave_S: Tensor
    sample_rate: int
    start: float


@dataclass(frozen=True)
class Clip:
    """One file's picture and sound, both from the picture's first moment and equally long."""

    name: str
    frames_THWC: Tensor
    fps: float
    wave_S: Tensor
    sample_rate: int


WHOLE = 0.95
"""Share of what a container says that it holds, below which the file is taken to be cut off."""
EXACT_CONTAINERS = {"mov", "flac"}
"""FFmpeg's names of the containers that state the length of their sound exactly; others guess it."""


def check_length(container: Any, stream: Any, seconds: float, shown: str) -> None:
    """Raises EvalError where much less sound was decoded than the container says that it holds."""
    if stream.duration is None or not EXACT_CONTAINERS & set(container.format.name.split(",")):
        return
    stated = float(stream.duration * stream.time_base)
    if stated * WHOLE - 0.1 > seconds:
        raise EvalError(
            f"{shown}: is cut off or damaged: {seconds:.2f} s of its {stated:.2f} s of sound can be decoded"
        )


@contextmanager
def opened(source: str | Path | bytes, name: str | None) -> Iterator[tuple[Any, str]]:
    """An open container and the name errors call it by; FFmpeg's errors become EvalErrors that name it."""
    shown = name or ("bytes" if isinstance(source, bytes) else str(source))
    if not isinstance(source, bytes) and not Path(source).is_file():
        raise EvalError(f"{shown}: no such file")
    if (len(source) if isinstance(source, bytes) else Path(source).stat().st_size) == 0:
        raise EvalError(f"{shown}: is empty (0 bytes); fetch or make it again")
    try:
        with av.open(io.BytesIO(source) if isinstance(source, bytes) else str(source)) as container:
            yield container, shown
    except (av.FFmpegError, OSError) as error:
        text = getattr(error, "strerror", None) or str(error)
        raise EvalError(
            f"{shown}: cannot be decoded ({text}); the file is damaged or of no known kind"
        ) from error


def decode_video(
    source: str | Path | bytes,
    *,
    name: str | None = None,
    transform: Callable[[Tensor], Tensor] | None = None,
) -> Video:
    """All frames of the first picture stream, turned upright by the file's rotation.

    `source`: a path, or a file's bytes (then `name` is what errors call it). `transform` maps each frame
    [H, W, 3] uint8 as it comes, so that a crop or a smaller size keeps long clips out of memory.
    Raises EvalError naming the file where it is unreadable, has no picture stream or no frame.
    """
    with opened(source, name) as (container, shown):
        if not container.streams.video:
            raise EvalError(f"{shown}: has no picture stream; a clip needs picture and sound")
        stream = container.streams.video[0]
        frames, times = [], []
        for frame in container.decode(stream):
            picture = torch.from_numpy(frame.to_ndarray(format="rgb24"))
            turns = round(frame.rotation / 90) % 4
            if turns:
                picture = torch.rot90(picture, turns, (0, 1)).contiguous()
            frames.append(transform(picture) if transform else picture)
            times.append(frame.time)
        if not frames:
            raise EvalError(f"{shown}: its picture stream holds no frame")
        if stream.frames * WHOLE - 2 > len(frames):
            raise EvalError(
                f"{shown}: is cut off or damaged: {len(frames)} of its {stream.frames} frames can be decoded"
            )
        fps = float(stream.average_rate or stream.guessed_rate or 0)
    if fps <= 0:
        raise EvalError(f"{shown}: does not say its frame rate; write it again with a constant one")
    if any(time is None for time in times):
        times = [index / fps for index in range(len(frames))]
    return Video(torch.stack(frames), fps, torch.tensor(times, dtype=torch.float64))


def decode_audio(
    source: str | Path | bytes,
    sample_rate: int | None = None,
    *,
    name: str | None = None,
    mono: bool = True,
) -> Audio:
    """All sound of the first sound stream, float32, at `sample_rate` (None: the file's own).

    The channels' mean [S], or every channel [C, S] with `mono=False`. Raises EvalError naming the file
    where it is unreadable, has no sound stream or no sample.
    """
    with opened(source, name) as (container, shown):
        if not container.streams.audio:
            raise EvalError(f"{shown}: has no sound stream; a clip needs picture and sound")
        stream = container.streams.audio[0]
        rate = int(sample_rate or stream.rate)
        resampler = av.AudioResampler(format="fltp", rate=rate)
        parts: list[np.ndarray] = []
        start: float | None = None
        for frame in container.decode(stream):
            if start is None:
                start = frame.time or 0.0
            # Without a time the resampler neither drops nor inserts samples where a file's clock is coarse.
            frame.pts = None
            parts += [out.to_ndarray() for out in resampler.resample(frame)]
        if start is not None:
            parts += [out.to_ndarray() for out in resampler.resample(None)]
        wave_CS = torch.from_numpy(np.concatenate(parts, axis=1)) if parts else torch.zeros(1, 0)
        if not wave_CS.shape[1]:
            raise EvalError(f"{shown}: its sound stream holds no sample")
        check_length(container, stream, wave_CS.shape[1] / rate, shown)
    return Audio(wave_CS.mean(dim=0) if mono else wave_CS, rate, start or 0.0)


def read_clip(source: str | Path | bytes, sample_rate: int | None = None, *, name: str | None = None) -> Clip:
    """One file's picture and sound on one clock.

    The sound is cut or padded with silence to begin with the first frame and to last round(T / fps * rate)
    samples. Raises EvalError as `decode_video` and `decode_audio` do.
    """
    shown = name or ("bytes" if isinstance(source, bytes) else str(source))
    return aligned(shown, decode_video(source, name=name), decode_audio(source, sample_rate, name=name))


def aligned(name: str, video: Video, audio: Audio) -> Clip:
    """Picture and sound [S] on one clock, as `read_clip` has them."""
    late = round((audio.start - float(video.times_T[0])) * audio.sample_rate)
    wave_S = audio.wave_S[-late:] if late < 0 else torch.nn.functional.pad(audio.wave_S, (late, 0))
    samples = round(len(video.frames_THWC) / video.fps * audio.sample_rate)
    return Clip(name, video.frames_THWC, video.fps, fit_length(wave_S, samples), audio.sample_rate)


def fit_length(wave_S: Tensor, samples: int) -> Tensor:
    """The wave [..., S] cut, or padded with silence, to `samples` at its end."""
    return torch.nn.functional.pad(wave_S, (0, samples - wave_S.shape[-1]))


def resample(wave_S: Tensor, sample_rate: int, wanted: int) -> Tensor:
    """A wave [S] of float32 at another rate, by FFmpeg's resampler; round(S * wanted / rate) samples."""
    if sample_rate == wanted:
        return wave_S
    resampler = av.AudioResampler(format="fltp", layout="mono", rate=wanted)
    frame = av.AudioFrame.from_ndarray(
        wave_S.float().contiguous().numpy()[None], format="fltp", layout="mono"
    )
    frame.sample_rate = sample_rate
    parts = [out.to_ndarray() for step in (frame, None) for out in resampler.resample(step)]
    return fit_length(
        torch.from_numpy(np.concatenate(parts, axis=1))[0], round(len(wave_S) * wanted / sample_rate)
    )


def write_mp4(
    path: str | Path,
    frames_THWC: Tensor,
    fps: float,
    wave_S: Tensor,
    sample_rate: int,
    enlarge_to: int = 256,
) -> Path:
    """Writes H.264 (yuv420p) and AAC that browsers play: exactly T frames, the sound as long as the picture.

    `frames_THWC` uint8 [T, H, W, 3], enlarged by the whole factor that brings the longer side nearest below
    `enlarge_to` (never made smaller); `wave_S` in [-1, 1], resampled where AAC has no such rate.
    Whole or not at all. Raises EvalError where there is nothing to write or no place for it.
    """
    path = Path(path)
    if frames_THWC.dim() != 4 or not len(frames_THWC) or frames_THWC.dtype != torch.uint8:
        raise EvalError(
            f"{path}: a clip needs frames [T, H, W, 3] of uint8 with T >= 1, "
            f"got {list(frames_THWC.shape)} of {frames_THWC.dtype}"
        )
    if not bool(torch.isfinite(wave_S).all()):
        raise EvalError(f"{path}: the sound is not finite; this clip cannot be written")
    factor = max(1, enlarge_to // max(frames_THWC.shape[1:3]))
    pictures = frames_THWC.repeat_interleave(factor, 1).repeat_interleave(factor, 2)
    # yuv420p halves the colour's size, so both sides must be even: the last row or column is doubled.
    rows = [*range(pictures.shape[1])] + [pictures.shape[1] - 1] * (pictures.shape[1] % 2)
    columns = [*range(pictures.shape[2])] + [pictures.shape[2] - 1] * (pictures.shape[2] % 2)
    pictures = pictures[:, rows][:, :, columns].contiguous()
    rate = _aac_rate(sample_rate)
    wave_S = resample(wave_S.detach().float().clamp(-1, 1).cpu(), sample_rate, rate)
    frame_rate = Fraction(fps).limit_denominator(100_000)
    wave_S = fit_length(wave_S, round(len(pictures) / frame_rate * rate)).clamp(-1, 1)
    with written_whole(path) as temporary:
        _encode(temporary, pictures, frame_rate, wave_S, rate)
    return path


def _aac_rate(sample_rate: int) -> int:
    """The lowest rate of AAC that holds the sound, and none below 16 kHz, which some players refuse."""
    rates = (16000, 22050, 24000, 32000, 44100, 48000)
    return next((rate for rate in rates if rate >= sample_rate), rates[-1])


def _encode(path: Path, pictures_THWC: Tensor, fps: Fraction, wave_S: Tensor, rate: int) -> None:
    try:
        with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as container:
            video: Any = container.add_stream("libx264", rate=fps, options={"crf": "12", "preset": "fast"})
            video.height, video.width = pictures_THWC.shape[1:3]
            video.pix_fmt = "yuv420p"
            video.codec_context.time_base = 1 / fps
            video.codec_context.thread_count = 1
            audio: Any = container.add_stream("aac", rate=rate, layout="mono", bit_rate=128_000)
            for index, picture in enumerate(pictures_THWC.cpu().numpy()):
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                frame.pts, frame.time_base = index, 1 / fps
                container.mux(video.encode(frame))
            container.mux(video.encode(None))
            sound = av.AudioFrame.from_ndarray(wave_S.numpy()[None], format="fltp", layout="mono")
            sound.sample_rate, sound.pts, sound.time_base = rate, 0, Fraction(1, rate)
            container.mux(audio.encode(sound))
            container.mux(audio.encode(None))
    except av.FFmpegError as error:
        raise OSError(getattr(error, "strerror", None) or str(error)) from error
