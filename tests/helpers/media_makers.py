"""Small media files of every kind: a white flash and a click at the same moments, made by PyAV."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from torch import Tensor

EVENTS = (0.5, 1.0, 1.5)
SIDE = 64
BASE = Fraction(1, 12_800)


def clicks(
    seconds: float, rate: int, at: Iterable[float] = EVENTS, channels: Sequence[int] = (0,), of: int = 1
):
    """[C, S] float32: 20 ms of 1 kHz at each moment, in the named channels."""
    wave = np.zeros((of, round(seconds * rate)), np.float32)
    for moment in at:
        first = round(moment * rate)
        burst = 0.8 * np.sin(2 * np.pi * 1000 * np.arange(round(0.02 * rate)) / rate)
        for channel in channels:
            part = wave[channel, first : first + len(burst)]
            part[:] = burst[: len(part)]
    return wave


def flashes(time: float, at: Iterable[float] = EVENTS) -> np.ndarray:
    lit = any(-1e-6 <= time - moment < 0.08 for moment in at)
    return np.full((SIDE, SIDE, 3), 230 if lit else 30, np.uint8)


def clip(
    path: Path,
    *,
    seconds: float = 2.0,
    fps: Any = 25,
    times: Sequence[float] | None = None,
    rate: int = 48_000,
    layout: str = "mono",
    wave_CS: np.ndarray | None = None,
    picture: Callable[[float], np.ndarray] = flashes,
    video: str | None = "libx264",
    audio: str | None = "aac",
    pix_fmt: str = "yuv420p",
    lost: Sequence[tuple[float, float]] = (),
    start: float = 0.0,
    options: dict[str, str] | None = None,
    set_up: Callable[[Any], None] | None = None,
    gop: int = 5,
) -> Path:
    """Frames at `times` and sound; `lost` stretches of sound are left out, their timestamps jump."""
    times = [index / float(fps) for index in range(round(seconds * float(fps)))] if times is None else times
    packets: list[Any] = []
    with av.open(str(path), "w", options=options or {}) as out:
        if video:
            picture_stream: Any = out.add_stream(
                video, rate=fps, options={"crf": "12", "bf": "0"} if "264" in video else {}
            )
            picture_stream.height, picture_stream.width = picture(times[0]).shape[:2]
            picture_stream.pix_fmt, picture_stream.gop_size = pix_fmt, gop
            picture_stream.time_base = picture_stream.codec_context.time_base = BASE
            if set_up:
                set_up(picture_stream)
        if audio:
            sound_stream: Any = out.add_stream(audio, rate=rate, layout=layout)
        if video:
            for time in times:
                frame = av.VideoFrame.from_ndarray(picture(time), format="rgb24")
                frame.pts, frame.time_base = round(time / BASE), BASE
                packets += picture_stream.encode(frame)
            packets += picture_stream.encode(None)
        if audio:
            if wave_CS is None:
                wave_CS = clicks(seconds, rate)
            packets += encoded(sound_stream, wave_CS, rate, layout, start, lost)
        packets.sort(key=lambda packet: float((packet.dts or 0) * packet.time_base))
        for packet in packets:
            out.mux(packet)
    return path


def encoded(stream: Any, wave_CS: np.ndarray, rate: int, layout: str, start: float, lost: Any) -> list[Any]:
    packets = []
    step = stream.codec_context.frame_size or 960
    to_codec = av.AudioResampler(format=stream.codec_context.format.name, layout=layout, rate=rate)
    for first in range(0, wave_CS.shape[1], step):
        block = np.ascontiguousarray(wave_CS[:, first : first + step].T.reshape(1, -1))
        frame = av.AudioFrame.from_ndarray(block, format="flt", layout=layout)
        frame.sample_rate = rate
        for out in to_codec.resample(frame):
            out.pts, out.time_base = first + round(start * rate), Fraction(1, rate)
            packets += stream.encode(out)
    packets += stream.encode(None)
    kept = []
    for packet in packets:
        time = float(packet.pts * packet.time_base) - start
        if not any(begin <= time < end for begin, end in lost):
            kept.append(packet)
    return kept


def remuxed(
    source: Path,
    path: Path,
    shift: float = 0.0,
    options: dict[str, str] | None = None,
    until: float = float("inf"),
) -> Path:
    """The packets of the first `until` seconds in another file, all moved by `shift` seconds."""
    with av.open(str(source)) as read, av.open(str(path), "w", options=options or {}) as written:
        streams = {stream.index: written.add_stream_from_template(stream) for stream in read.streams}
        for packet in read.demux():
            if not packet.size or packet.dts * packet.time_base >= until:
                continue
            moved = round(shift / packet.time_base)
            packet.pts, packet.dts = packet.pts + moved, packet.dts + moved
            packet.stream = streams[packet.stream.index]
            written.mux(packet)
    return path


def half(source: Path, share: float = 0.5) -> Path:
    data = source.read_bytes()
    cut = source.with_name(f"half_{source.name}")
    cut.write_bytes(data[: int(len(data) * share)])
    return cut


def mp3(rate: int, bit_rate: int, seconds: float, layout: str = "mono", xing: bool = False) -> bytes:
    buffer = io.BytesIO()
    options = {"write_xing": str(int(xing)), "id3v2_version": "0"}
    with av.open(buffer, "w", format="mp3", options=options) as out:
        stream: Any = out.add_stream("libmp3lame", rate=rate, layout=layout)
        stream.bit_rate = bit_rate
        noise = np.random.default_rng(0).standard_normal(
            (stream.codec_context.layout.nb_channels, round(rate * seconds))
        )
        for packet in encoded(stream, noise.astype(np.float32) * 0.1, rate, layout, 0.0, ()):
            out.mux(packet)
    return buffer.getvalue()


def heard(wave_S: Tensor, rate: int, level: float = 0.2) -> list[float]:
    """When clicks begin, to the hundredth of a second."""
    found: list[float] = []
    for place in np.flatnonzero(np.abs(wave_S.numpy()) > level):
        if not found or place / rate - found[-1] > 0.2:
            found.append(place / rate)
    return [round(float(time), 2) for time in found]


def seen(frames_THWC: Tensor, fps: float) -> list[float]:
    """When flashes begin."""
    lit = frames_THWC.float().mean((1, 2, 3)) > 128
    return [round(n / fps, 2) for n in range(len(lit)) if lit[n] and (n == 0 or not lit[n - 1])]
