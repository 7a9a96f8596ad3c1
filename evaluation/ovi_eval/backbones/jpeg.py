"""JPEG encoding and decoding by FFmpeg, in which published pipelines store their frames.

Two choices of quality: a fixed quantiser (FFmpeg's `-qscale:v 2`, nearly lossless), or
FFmpeg's default for pictures, 200 kbit/s, which depends on the frames' content.
"""

import io
from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import Any

import av
import numpy as np
from PIL import Image

BIT_RATE = 200_000
"""FFmpeg's default for pictures, from which it chooses each JPEG's quality."""


def encoded(frames: Iterable[av.VideoFrame], fps: int, quantiser: int | None = None) -> Iterator[bytes]:
    """Each frame as a JPEG file's bytes, in order. All frames have the size of the first.

    `quantiser`: 1 (best) to 31 for every frame; None leaves the choice to FFmpeg's default bit rate at `fps`.
    """
    encoder: Any = None
    for number, frame in enumerate(frames):
        if encoder is None:
            encoder = _encoder(frame.width, frame.height, fps, quantiser)
        full_range = frame.reformat(format="yuvj420p", dst_color_range="JPEG")
        full_range.pts, full_range.time_base = number, Fraction(1, fps)
        full_range.pict_type = 0  # the source's kinds of frames are not those of the JPEGs
        yield from map(bytes, encoder.encode(full_range))
    if encoder is not None:
        yield from map(bytes, encoder.encode(None))


def encoded_one(frame_HWC: np.ndarray, fps: int, quantiser: int) -> bytes:
    """One frame [H, W, 3] uint8, RGB, as a JPEG file's bytes."""
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame_HWC), format="rgb24")
    return b"".join(encoded([frame], fps, quantiser))


def opened(data: bytes) -> np.ndarray:
    """The picture of a JPEG file: [H, W, 3] uint8, BGR."""
    return np.ascontiguousarray(np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))[..., ::-1])


def _encoder(width: int, height: int, fps: int, quantiser: int | None) -> Any:
    encoder: Any = av.CodecContext.create("mjpeg", "w")
    encoder.width, encoder.height = width, height
    encoder.pix_fmt = "yuvj420p"
    encoder.time_base, encoder.framerate = Fraction(1, fps), Fraction(fps)
    encoder.bit_rate = BIT_RATE
    if quantiser is not None:
        encoder.qmin = encoder.qmax = quantiser
    encoder.thread_count = 1  # the choice of quality goes from frame to frame
    return encoder
