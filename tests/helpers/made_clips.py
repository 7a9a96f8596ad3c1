"""Small files whose picture flashes white at the moments at which its sound clicks, and where both are found again."""

import wave
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch

RATE = 48000
TICKS = 90000


def write_clip(
    path: Path,
    seconds: float = 4.0,
    moments: Sequence[float] = (1.0, 2.0, 3.0),
    fps: Fraction | int = 24,
    times: Sequence[float] | None = None,
    sound_seconds: float | None = None,
    gap: tuple[float, float] | None = None,
    picture_start: float = 0.0,
    sound_start: float = 0.0,
    caption: str | None = "a clip",
    size: tuple[int, int] = (48, 64),
) -> Path:
    """H.264 with AAC, or with Opus in mkv and webm.

    Args:
        times: of the frames, where they are not evenly spaced.
        gap: sound that is left out: from when on, and how much.
        picture_start, sound_start: seconds by which each is late on the file's clock; moments are on it.
    """
    codec = "aac" if path.suffix in (".mp4", ".mov") else "libopus"
    times = [float(n / Fraction(fps)) for n in range(round(seconds * float(fps)))] if times is None else times
    length = round((seconds if sound_seconds is None else sound_seconds) * RATE)
    with av.open(str(path), "w") as container:
        picture: Any = container.add_stream("libx264", rate=fps, options={"crf": "8", "preset": "ultrafast"})
        picture.height, picture.width = size
        picture.pix_fmt = "yuv420p"
        picture.time_base = picture.codec_context.time_base = Fraction(1, TICKS)
        sound: Any = container.add_stream(codec, rate=RATE, layout="mono")
        packets = []
        for time in times:
            now = time + picture_start
            level = 235 if any(moment - 1e-6 <= now < moment + 0.1 for moment in moments) else 16
            frame = av.VideoFrame.from_ndarray(np.full((*size, 3), level, np.uint8), format="rgb24")
            frame.pts, frame.time_base = round(now * TICKS), Fraction(1, TICKS)
            packets += picture.encode(frame)
        packets += picture.encode(None)
        wave_S = np.zeros(length, np.float32)
        tone = 0.8 * np.sin(2 * np.pi * 1000 * np.arange(RATE // 50) / RATE)
        for moment in moments:
            first = round((moment - sound_start) * RATE)
            if 0 <= first < length:
                wave_S[first : first + len(tone)] = tone[: length - first]
        step = sound.codec_context.frame_size or 960
        for first in range(0, length, step):
            if gap is not None and gap[0] <= first / RATE < gap[0] + gap[1]:
                continue
            form, block = sound.codec_context.format.name, wave_S[None, first : first + step]
            if form == "s16":
                block = (block * 32767).astype(np.int16)
            frame = av.AudioFrame.from_ndarray(block, format=form, layout="mono")
            frame.sample_rate, frame.time_base = RATE, Fraction(1, RATE)
            frame.pts = first + round(sound_start * RATE)
            packets += sound.encode(frame)
        packets += sound.encode(None)
        for packet in sorted(packets, key=lambda packet: float((packet.dts or 0) * packet.time_base)):
            container.mux(packet)
    if caption is not None:
        path.with_suffix(".txt").write_text(caption)
    return path


def flashes(frames_THWC: torch.Tensor, fps: float) -> list[float]:
    """When it becomes white, in seconds."""
    white = frames_THWC.float().mean((1, 2, 3)) > 110
    return [n / fps for n in range(len(white)) if white[n] and not (n and white[n - 1])]


def clicks(wave_S: torch.Tensor, rate: int) -> list[float]:
    """When a sound begins that nothing was heard before for 0.3 s, in seconds."""
    loud = (wave_S.abs() > 0.25 * float(wave_S.abs().max())).nonzero().flatten().tolist()
    return [at / rate for n, at in enumerate(loud) if not n or at - loud[n - 1] > 0.3 * rate]


def write_wav(path: Path, samples: Sequence[int] | np.ndarray, rate: int = 16000) -> Path:
    """16-bit samples of one channel."""
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, rate, 0, "NONE", ""))
        file.writeframes(np.asarray(samples, np.int16).tobytes())
    return path
