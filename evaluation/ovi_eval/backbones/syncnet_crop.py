"""Reading of a prepared face crop as SyncNet's release does: frames through JPEG, sound as 16-bit numbers.

The release has FFmpeg write every frame as a JPEG at its default of 200 kbit/s and reads these back. On the
tests' real crop that costs about 4 of 255 levels and moves Sync-D by 0.7 % (through generated weights), so
numbers that should agree with published ones need it.

Shapes: F frames, H = W = 224, S samples.
"""

from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
import torch
from torch import Tensor

from ovi_eval.backbones import jpeg
from ovi_eval.backbones.mfcc import SAMPLE_RATE
from ovi_eval.backbones.syncnet import FPS, SIDE
from ovi_eval.clips import timing
from ovi_eval.clips.completeness import check_complete
from ovi_eval.clips.container import opened, picture_stream, sound_stream
from ovi_eval.clips.sound import decode_audio
from ovi_eval.errors import UserError


class Crop(NamedTuple):
    """`frames_FHWC` uint8 [F, 224, 224, 3] BGR at 25 fps, `wave_S` int16 [S] at 16 kHz."""

    frames_FHWC: Tensor
    wave_S: np.ndarray


def read_crop(path: str | Path) -> Crop:
    """The pictures and sound of a face crop, as `ovi_eval.backbones.syncnet` takes them.

    Sound is cut where the file says that it ends, as FFmpeg's own program does: the padding of its last
    block is left out. Raises UserError naming the file where it is unreadable, has no picture or no sound,
    or is not 224x224 at 25 fps.
    """
    check_complete(path, "video")
    with opened(path) as (container, shown):
        seconds = _sound_seconds(container)
        frames_FHWC = _frames(container, shown)
    wave_S = to_int16(decode_audio(path, SAMPLE_RATE).wave_S)
    return Crop(frames_FHWC, wave_S if seconds is None else wave_S[: round(seconds * SAMPLE_RATE)])


def to_int16(wave_S: Tensor) -> np.ndarray:
    """A wave in [-1, 1] as the 16-bit numbers that FFmpeg writes: times 32768, rounded, held in range."""
    return np.clip(np.round(wave_S.double().numpy() * 32768), -32768, 32767).astype(np.int16)


def _sound_seconds(container: Any) -> Fraction | None:
    if not container.streams.audio or not container.format.name.startswith("mov"):
        return None
    stream = sound_stream(container, "")
    return Fraction(stream.duration * stream.time_base) if stream.duration else None


def _frames(container: Any, path: str) -> Tensor:
    stream = picture_stream(container, path)
    times: list[float] = []

    def frames_of_a_crop() -> Iterator[av.VideoFrame]:
        for frame in container.decode(stream):
            if (frame.width, frame.height) != (SIDE, SIDE):
                size = f"{frame.width}x{frame.height} at {float(stream.average_rate or 0):g} fps"
                raise UserError(f"{path}: is {size}; a face crop is {SIDE}x{SIDE} at {FPS} fps")
            times.append(frame.time if frame.time is not None else len(times) / FPS)
            yield frame

    pictures = [jpeg.opened(data) for data in jpeg.encoded(frames_of_a_crop(), FPS)]
    if not pictures:
        raise UserError(f"{path}: its picture stream holds no frame")
    times_F = torch.tensor(times, dtype=torch.float64)
    rate = (
        timing.even_rate(times_F, float(stream.time_base), [Fraction(FPS)]) if len(times) > 1 else float(FPS)
    )
    if rate != FPS:
        shown = f"{rate:.4g} fps" if rate else "a variable rate"
        raise UserError(f"{path}: is {SIDE}x{SIDE} at {shown}; a face crop is {SIDE}x{SIDE} at {FPS} fps")
    return torch.from_numpy(np.stack(pictures))


def through_jpeg(pictures: Iterable[np.ndarray]) -> Tensor:
    """Crops [224, 224, 3] uint8, BGR, as SyncNet's release sees them: [F, 224, 224, 3] uint8, BGR."""
    frames = (
        av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="bgr24") for picture in pictures
    )
    return torch.from_numpy(np.stack([jpeg.opened(data) for data in jpeg.encoded(frames, FPS)]))
