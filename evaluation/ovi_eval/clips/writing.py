"""Clips written as mp4 that browsers play, and sound brought to another rate.

Shapes: T frames, H rows, W columns, S samples.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

import av
import numpy as np
import torch
from torch import Tensor

from ovi_eval.clips.clip import fit_length
from ovi_eval.common.files import written_whole
from ovi_eval.errors import UserError

SAME_BYTES = {"x264-params": "threads=1:lookahead-threads=1:sync-lookahead=0:mbtree=0"}
"""x264's macroblock tree adds up in another order from run to run; without it a clip's bytes are always the same."""


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
    wave_S: Tensor | None,
    sample_rate: int,
    enlarge_to: int = 256,
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Writes H.264 (yuv420p) and AAC that browsers play: exactly T frames, the sound as long as the picture.

    `frames_THWC` uint8 [T, H, W, 3], enlarged by the whole factor that brings the longer side nearest below
    `enlarge_to` (never made smaller); `wave_S` in [-1, 1], resampled where AAC has no such rate; None: no sound.
    Written atomically. Raises UserError where there is nothing to write or the file cannot be written.
    """
    path = Path(path)
    if frames_THWC.dim() != 4 or not len(frames_THWC) or frames_THWC.dtype != torch.uint8:
        raise UserError(
            f"{path}: a clip needs frames [T, H, W, 3] of uint8 with T >= 1, "
            f"got {list(frames_THWC.shape)} of {frames_THWC.dtype}"
        )
    if wave_S is not None and not bool(torch.isfinite(wave_S).all()):
        raise UserError(f"{path}: the sound is not finite; this clip cannot be written")
    factor = max(1, enlarge_to // max(frames_THWC.shape[1:3]))
    pictures = frames_THWC
    if factor > 1:
        pictures = pictures.repeat_interleave(factor, 1).repeat_interleave(factor, 2)
    # yuv420p halves the colour's size, so both sides must be even: the last row or column is doubled.
    for side in (1, 2):
        if pictures.shape[side] % 2:
            pictures = torch.cat([pictures, pictures.narrow(side, -1, 1)], dim=side)
    rate = _aac_rate(sample_rate)
    frame_rate = Fraction(fps).limit_denominator(100_000)
    if wave_S is not None:
        wave_S = resample(wave_S.detach().float().clamp(-1, 1).cpu(), sample_rate, rate)
        wave_S = fit_length(wave_S, round(len(pictures) / frame_rate * rate)).clamp(-1, 1)
    with written_whole(path) as temporary:
        encode_mp4(
            str(temporary),
            pictures,
            frame_rate,
            wave_S,
            rate,
            crf=12,
            preset="fast",
            sound_bits=128_000,
            container_options={"movflags": "+faststart+use_metadata_tags" if metadata else "+faststart"},
            metadata=metadata,
        )
    return path


def _aac_rate(sample_rate: int) -> int:
    """The lowest rate of AAC that holds the sound, and none below 16 kHz, which some players refuse."""
    rates = (16000, 22050, 24000, 32000, 44100, 48000)
    return next((rate for rate in rates if rate >= sample_rate), rates[-1])


def encode_mp4(
    target: str | BinaryIO,
    frames_THWC: Tensor,
    fps: Fraction,
    wave_S: Tensor | None,
    sample_rate: int,
    *,
    crf: int,
    preset: str,
    sound_bits: int,
    container_options: Mapping[str, str] | None = None,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Encodes frames [T, H, W, 3] of uint8 as H.264 and a wave [S], where there is one, as AAC; always the same bytes.

    `crf`, `preset`: x264's quality and speed; `sound_bits` a second. Raises OSError with FFmpeg's reason.
    """
    try:
        with av.open(target, "w", format="mp4", options=dict(container_options or {})) as container:
            container.metadata.update(metadata or {})
            options = {"crf": str(crf), "preset": preset, **SAME_BYTES}
            video: Any = container.add_stream("libx264", rate=fps, options=options)
            video.height, video.width = frames_THWC.shape[1:3]
            video.pix_fmt = "yuv420p"
            video.codec_context.time_base = 1 / fps
            video.codec_context.thread_count = 1
            audio: Any = None
            if wave_S is not None:
                audio = container.add_stream("aac", rate=sample_rate, layout="mono", bit_rate=sound_bits)
            for index, picture in enumerate(frames_THWC.cpu().numpy()):
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
                frame.pts, frame.time_base = index, 1 / fps
                container.mux(video.encode(frame))
            container.mux(video.encode(None))
            if wave_S is not None:
                sound = av.AudioFrame.from_ndarray(wave_S.numpy()[None], format="fltp", layout="mono")
                sound.sample_rate, sound.pts, sound.time_base = sample_rate, 0, Fraction(1, sample_rate)
                container.mux(audio.encode(sound))
                container.mux(audio.encode(None))
    except av.FFmpegError as error:
        raise OSError(getattr(error, "strerror", None) or str(error)) from error
