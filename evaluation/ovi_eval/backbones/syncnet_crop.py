"""Reads a ready face crop as SyncNet's release does: pictures through JPEG, sound as 16-bit numbers.

The release has FFmpeg write every frame as a JPEG at its default of 200 kbit/s and reads these back. On the
tests' real crop that costs about 4 of 255 levels and moves Sync-D by 0.7 % (through rule-made weights), so
numbers that should agree with published ones need it; `as_published=False` looks at the frames themselves,
which is another variant.

Shapes: F frames, H = W = 224, S samples.
"""

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
import torch
from torch import Tensor

from ..errors import EvalError
from ..media import decode_audio
from . import jpeg
from .mfcc import SAMPLE_RATE
from .syncnet import FPS, SIDE


class Crop(NamedTuple):
    """`frames_FHWC` uint8 [F, 224, 224, 3] BGR at 25 fps, `wave_S` int16 [S] at 16 kHz."""

    frames_FHWC: Tensor
    wave_S: np.ndarray


def read_crop(path: str | Path, as_published: bool = True) -> Crop:
    """The pictures and sound of a face crop, as `ovi_eval.backbones.syncnet` takes them.

    Sound is cut where the file says that it ends, as FFmpeg's own program does: the padding of its last
    block is left out. Raises EvalError naming the file where it is unreadable, has no picture or no sound,
    or is not 224x224 at 25 fps.
    """
    if not Path(path).is_file():
        raise EvalError(f"{path}: no such file")
    try:
        with av.open(str(path)) as container:
            seconds = _sound_seconds(container)
            frames_FHWC = _frames(container, str(path), as_published)
    except (av.FFmpegError, OSError) as error:
        text = getattr(error, "strerror", None) or str(error)
        raise EvalError(
            f"{path}: cannot be decoded ({text}); the file is damaged or of no known kind"
        ) from error
    wave_S = to_int16(decode_audio(path, SAMPLE_RATE).wave_S)
    return Crop(frames_FHWC, wave_S if seconds is None else wave_S[: round(seconds * SAMPLE_RATE)])


def to_int16(wave_S: Tensor) -> np.ndarray:
    """A wave in [-1, 1] as the 16-bit numbers that FFmpeg writes: times 32768, rounded, held in range."""
    return np.clip(np.round(wave_S.double().numpy() * 32768), -32768, 32767).astype(np.int16)


def _sound_seconds(container: Any) -> Fraction | None:
    streams = container.streams.audio
    if not streams or streams[0].duration is None:
        return None
    return Fraction(streams[0].duration * streams[0].time_base)


def _frames(container: Any, path: str, as_published: bool) -> Tensor:
    if not container.streams.video:
        raise EvalError(f"{path}: has no picture stream; a face crop needs picture and sound")
    stream = container.streams.video[0]
    if (stream.width, stream.height, stream.average_rate) != (SIDE, SIDE, FPS):
        rate = float(stream.average_rate or 0)
        raise EvalError(
            f"{path}: is {stream.width}x{stream.height} at {rate:g} fps; a face crop is {SIDE}x{SIDE} at {FPS}"
        )
    frames = container.decode(stream)
    if as_published:
        pictures = [jpeg.opened(data) for data in jpeg.encoded(frames, FPS)]
    else:
        pictures = [frame.to_ndarray(format="bgr24") for frame in frames]
    if not pictures:
        raise EvalError(f"{path}: its picture stream holds no frame")
    return torch.from_numpy(np.stack(pictures))


def through_jpeg(pictures: Iterable[np.ndarray]) -> Tensor:
    """Crops [224, 224, 3] uint8, BGR, as SyncNet's release sees them: [F, 224, 224, 3] uint8, BGR."""
    frames = (
        av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="bgr24") for picture in pictures
    )
    return torch.from_numpy(np.stack([jpeg.opened(data) for data in jpeg.encoded(frames, FPS)]))
