"""Clips longer than a model was trained on: their windows in seconds, and what the codec does where windows meet.

A window of a codec whose first latent frame holds one picture frame, and others four, cannot begin with latents from
the middle of a clip: no first latent frame was of that kind in training. Its beginning is the end of the window before,
decoded and encoded again as the beginning of a clip. The windows begin on latent frames, so that what each one adds
follows in the sequence of the whole clip's latents, which is decoded in one piece.

Shapes: B clips, C channels, F latent frames of a window, O of them shared with the one before.
"""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from ovi_lab.errors import UserError
from ovi_lab.flow import Windows
from ovi_lab.flow.windows import Again
from ovi_lab.sampling.bundle import Formats
from ovi_lab.sampling.seams import Jump, picture_jumps, sound_jumps

SHARED = 0.25
"""Of a window, shared with the one before, where nothing else is said."""


def windows_of(formats: Formats, seconds: float, overlap: float | None = None) -> Windows:
    """The windows of a clip.

    Args:
        formats: of the model; a window is a clip of the length that it was trained on.
        seconds: of the whole clip, rounded to whole latent frames.
        overlap: seconds that each window shares with the one before, at least; None: a quarter of a window.

    Raises UserError for a clip that is not longer than a window, and an overlap that is none or a whole window.
    """
    window = formats.frames / formats.fps
    if not math.isfinite(seconds) or seconds < window - 0.5 / formats.fps:
        raise UserError(
            f"seconds={seconds:g} is shorter than the {window:.2f} s of a clip of {formats.name}: leave it out"
        )
    if overlap is not None and not 0 < overlap < window:
        raise UserError(
            f"overlap={overlap:g} s of windows of {window:.2f} s: expected more than 0, and less than a window"
        )
    shared = SHARED * window if overlap is None else overlap
    lengths: dict[Any, int] = {}
    if "audio" in formats.shapes:
        lengths["audio"] = formats.shapes["audio"][0]
    rate = formats.sample_rate / formats.token_samples
    if "video" not in formats.shapes:
        total = round(seconds * rate)
        length = lengths["audio"]
        return Windows.over(max(total, length), lengths, _inside(round(shared * rate), length))
    stride, alone = formats.strides[0], int(formats.first_frame_alone)
    lengths["video"] = length = formats.shapes["video"][1]
    total, own = (
        alone + (s * formats.fps - alone) / stride for s in (seconds, shared)
    )  # latent frames of a clip of so many seconds
    per_frame = stride / formats.fps * rate
    return Windows.over(max(round(total), length), lengths, _inside(round(own), length), per_frame)


def _inside(shared: int, length: int) -> int:
    return min(max(shared, 1), length - 1)


def shared_again(codec: Any) -> Again | None:
    """What makes a window's beginning of the end of the one before; None for codecs whose latent frames are all alike.

    Args:
        codec: of video.
    """
    if not codec.first_frame_alone:
        return None
    stride = codec.strides[0]

    def again(latents_BCFhw: Tensor, shared: int) -> Tensor:
        """[B,C,O,h,w]: the last 1 + stride (O - 1) frames of the window, as the beginning of a clip."""
        frames = codec.decode(latents_BCFhw)
        encoded: Tensor = codec.encode(frames[:, -(1 + stride * (shared - 1)) :].contiguous())
        return encoded

    return again


def seams_of(windows: Windows, formats: Formats) -> dict[str, list[int]]:
    """The first picture frame, and the first sample of sound, that each later window adds."""
    found = {}
    if "video" in windows.starts:
        alone, stride = int(formats.first_frame_alone), formats.strides[0]
        found["video"] = [alone + (n - alone) * stride for n in windows.seams("video")]
    if "audio" in windows.starts:
        found["audio"] = [n * formats.token_samples for n in windows.seams("audio")]
    return found


def seam_jumps(
    windows: Windows, formats: Formats, frames_THWC: Tensor, wave_S: Tensor
) -> dict[str, list[Jump]]:
    """How far a finished clip jumps where its windows meet, in picture and sound."""
    at, found = seams_of(windows, formats), {}
    if "video" in at:
        found["video"] = picture_jumps(frames_THWC, formats.fps, at["video"])
    if "audio" in at:
        found["audio"] = sound_jumps(wave_S, formats.sample_rate, at["audio"])
    return found
