"""Picture and sound of one media file on its clock, decoded no further than is asked: of shards, or given to a clip.

Shape suffixes: T frames, H rows, W columns, S samples.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ovi_eval.clips.clip import fit_length
from ovi_eval.clips.picture import PictureStream, decode_video
from ovi_eval.clips.sound import SoundStream
from ovi_eval.clips.writing import resample
from ovi_lab.data.cutting import cut_picture

_BEYOND = 1.0  # seconds of sound that are kept past a clip's end until it is resampled


@dataclass(frozen=True)
class DecodedPicture:
    """Evenly spaced frames uint8 [T, H, W, 3] at `fps`; `start` is the first one's time on the file's clock, and
    `source_fps` the frames a second that the file has in the mean.
    """

    frames_THWC: Tensor
    fps: float
    start: float
    source_fps: float


@dataclass(frozen=True)
class DecodedSound:
    """One channel, float32 [S]."""

    wave_S: Tensor
    sample_rate: int


def read_picture(
    source: Path | bytes,
    name: str,
    fps: float | None = None,
    num_frames: int | None = None,
    transform: Callable[[Tensor], Tensor] | None = None,
) -> DecodedPicture:
    """The frames of a file from the first on.

    Args:
        source: the file, or its bytes.
        name: of the picture in messages.
        fps: the rate at which frames are taken; None: a constant rate at which none is lost.
        num_frames: so many, with `fps`; None: all.
        transform: applied to each frame [H, W, 3] as it is decoded, with `fps`.

    Raises:
        UserError: it cannot be decoded.
        BadSampleError: it ends before that many frames, or a frame does not fit.
    """
    if fps is None:
        stored = decode_video(source, name=name)
        constant = stored.constant()
        return DecodedPicture(constant.frames_THWC, constant.fps, float(constant.times_T[0]), stored.fps)
    with PictureStream(source, name=name, transform=transform) as picture:
        frames_THWC = next(cut_picture(picture, fps, num_frames))
        return DecodedPicture(frames_THWC, fps, picture.start, picture.fps)


def read_sound(source: Path | bytes, name: str, seconds: float, start: float | None = None) -> DecodedSound:
    """The sound of a file for `seconds` and one second more (samples beyond the resampler's reach change nothing).

    It is at the file's own rate, and ends where the file's sound does.

    Args:
        source: the file, or its bytes.
        name: of the sound in messages.
        seconds: to read.
        start: on the file's clock, such as its picture's; None: where its sound starts.

    Raises UserError where it cannot be decoded.
    """
    with SoundStream(source, name=name) as stream:
        if start is not None:
            stream.begin_at(start)
        wave_S = stream.read(round((seconds + _BEYOND) * stream.sample_rate))
        return DecodedSound(wave_S, stream.sample_rate)


def sound_at(sound: DecodedSound, sample_rate: int, samples: int) -> Tensor:
    """[samples] at another rate: cut at the end, or padded with silence."""
    wave_S = sound.wave_S
    if sound.sample_rate != sample_rate:
        wave_S = wave_S[: round((samples / sample_rate + _BEYOND) * sound.sample_rate)]
        wave_S = resample(wave_S, sound.sample_rate, sample_rate)
    return fit_length(wave_S, samples)
