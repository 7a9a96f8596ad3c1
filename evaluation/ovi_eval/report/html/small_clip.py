"""A clip of any size as a small mp4 for the page: H.264 and AAC, the longer side 320 pixels, the first 6 s.

Shapes: T frames, H rows, W columns, S samples.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ovi_eval.clips import timing
from ovi_eval.clips.clip import fit_length, from_start
from ovi_eval.clips.container import opened, picture_stream, sound_stream
from ovi_eval.clips.picture import PictureStream, Video, decode_video
from ovi_eval.clips.sound import SoundStream, decode_audio
from ovi_eval.clips.writing import encode_mp4, resample
from ovi_eval.errors import UserError

SIDE = 320
SECONDS = 6.0
# A file up to this size that browsers play as it is goes into the page untouched.
AS_IT_IS = 120_000
_RATE = 32_000
# The picture of a clip that has none: rows and columns.
_BLIND_SIZE, _BLIND_FPS = (60, 240), 10.0


@dataclass(frozen=True)
class SmallClip:
    """The mp4 and what it shows: frames [T, H, W, 3] uint8, the sound [S] in [-1, 1] equally long.

    `cut` is True where the file goes on after the part that is shown, `silent` where it has no sound at all,
    `blind` where it has no picture: then the frames are black.
    """

    mp4: bytes
    frames_THWC: Tensor
    fps: float
    wave_S: Tensor
    sample_rate: int
    cut: bool = False
    silent: bool = False
    blind: bool = False


def small_clip(path: Path) -> SmallClip:
    """Reads a clip and makes it small where it is not.

    Raises UserError naming the file where it is unreadable or has neither picture nor sound, OSError where it
    cannot be opened at all.
    """
    with opened(path, path.name) as (container, shown):
        sees, sounds = _moves(container), bool(container.streams.audio)
        playable = sees and sounds and _plays_everywhere(container, shown)
    if not sees and not sounds:
        raise UserError(f"{shown}: has neither picture nor sound; a clip needs one of them")
    if playable and path.stat().st_size <= AS_IT_IS:
        content = path.read_bytes()
        video, sound = decode_video(content, name=path.name), decode_audio(content, name=path.name)
        samples = round(video.seconds * sound.sample_rate)
        wave_S = fit_length(from_start(sound, float(video.times_T[0])), samples)
        even = video.constant()
        return SmallClip(content, even.frames_THWC, even.fps, wave_S, sound.sample_rate)
    if not sees:
        return _heard(path)
    video, cut = _first_frames(path)
    even = video.constant()
    samples = round(len(even.frames_THWC) / even.fps * _RATE)
    wave_S = torch.zeros(samples)
    if sounds:
        with SoundStream(path, name=path.name) as stream:
            stream.begin_at(float(video.times_T[0]))
            heard_S = stream.read(math.ceil((samples / _RATE + 1) * stream.sample_rate))
        wave_S = fit_length(resample(heard_S, stream.sample_rate, _RATE), samples).clamp(-1, 1)
    mp4 = _encoded(path.name, even.frames_THWC, even.fps, wave_S if sounds else None)
    return SmallClip(mp4, even.frames_THWC, even.fps, wave_S, _RATE, cut, not sounds)


def _heard(path: Path) -> SmallClip:
    """A sound alone, below a black picture, as the page plays videos."""
    sound = decode_audio(path, name=path.name)
    whole_S = resample(sound.wave_S, sound.sample_rate, _RATE)
    count = max(1, min(round(SECONDS * _BLIND_FPS), math.ceil(len(whole_S) / _RATE * _BLIND_FPS)))
    frames_THWC = torch.zeros(count, *_BLIND_SIZE, 3, dtype=torch.uint8)
    wave_S = fit_length(whole_S, round(count / _BLIND_FPS * _RATE)).clamp(-1, 1)
    mp4 = _encoded(path.name, frames_THWC, _BLIND_FPS, wave_S)
    return SmallClip(mp4, frames_THWC, _BLIND_FPS, wave_S, _RATE, len(whole_S) > len(wave_S), blind=True)


def _moves(container: Any) -> bool:
    """Whether there is a picture that is not just the cover of a sound file."""
    cover = av.stream.Disposition.attached_pic
    return any(not stream.disposition & cover for stream in container.streams.video)


def _plays_everywhere(container: Any, shown: str) -> bool:
    """Whether every browser plays a file as it is: H.264 in 4:2:0 with AAC, in mp4."""
    codec = picture_stream(container, shown).codec_context
    sound = sound_stream(container, shown).codec_context
    picture = codec.name == "h264" and codec.pix_fmt == "yuv420p"
    return picture and sound.name == "aac" and "mp4" in container.format.name


def _first_frames(path: Path) -> tuple[Video, bool]:
    """Small upright frames of the first 6 s, and whether more follow."""
    frames: list[Tensor] = []
    with PictureStream(path, name=path.name, transform=_shrunk) as picture:
        for time, frame in picture:
            if time - picture.start > SECONDS - 1e-3:
                times_T = picture.times_T[:-1]
                rate = timing.even_rate(times_T, 1e-3, []) if len(times_T) > 1 else None
                return Video(torch.stack(frames), rate or len(frames) / SECONDS, times_T, time), True
            frames.append(frame)
        return Video(torch.stack(frames), picture.fps, picture.times_T, picture.end), False


def _shrunk(frame_HWC: Tensor) -> Tensor:
    height, width = frame_HWC.shape[:2]
    scale = min(1.0, SIDE / max(height, width))
    size = (max(2, 2 * round(width * scale / 2)), max(2, 2 * round(height * scale / 2)))
    return torch.from_numpy(np.array(Image.fromarray(frame_HWC.numpy()).resize(size, Image.Resampling.BOX)))


def _encoded(name: str, frames_THWC: Tensor, fps: float, wave_S: Tensor | None) -> bytes:
    buffer, rate = io.BytesIO(), Fraction(fps).limit_denominator(100_000)
    try:
        # Quality for a look, not for a measurement: the numbers are of the file itself.
        encode_mp4(buffer, frames_THWC, rate, wave_S, _RATE, crf=30, preset="veryfast", sound_bits=48_000)
    except OSError as error:
        raise UserError(f"{name}: cannot be made small ({error}); write it again as H.264 mp4") from error
    return buffer.getvalue()
