"""Clips longer than a model was trained on: their windows in seconds, and what the codec does where windows meet.

A window of a codec whose first latent frame holds one picture frame, and others four, cannot begin with latents from
the middle of a clip: no first latent frame was of that kind in training. Its beginning is the end of the window before,
decoded and encoded again as the beginning of a clip. The windows begin on latent frames, so that what each one adds
follows in the sequence of the whole clip's latents, which is decoded in one piece.

Shapes: B clips, C channels, F latent frames of a window, O of them shared with the one before.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

from torch import Tensor

from ovi_lab.errors import UserError
from ovi_lab.flow import SamplerSettings, Texts, Windows, noise_batch, sample_windows
from ovi_lab.flow.windows import Again
from ovi_lab.models import Given, TwinDiT
from ovi_lab.models.config import Modality
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
    for name, value in (("seconds", seconds), ("overlap", overlap)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise UserError(f"{name} is {value!r}: expected a number of seconds")
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
    # latent frames of a clip of so many seconds
    frames, own = (alone + (s * formats.fps - alone) / stride for s in (seconds, shared))
    per_frame = stride / formats.fps * rate
    return Windows.over(max(round(frames), length), lengths, _inside(round(own), length), per_frame)


def whole_formats(formats: Formats, windows: Windows | None) -> Formats:
    """The formats of the whole clip that the windows make. Raises UserError for one that is too large."""
    if windows is None:
        return formats
    shapes = dict(formats.shapes)
    if "video" in shapes:
        shapes["video"] = (shapes["video"][0], windows.total("video"), *shapes["video"][2:])
    if "audio" in shapes:
        shapes["audio"] = (windows.total("audio"), shapes["audio"][1])
    found = replace(formats, shapes=shapes)
    found.check_size()
    return found


def texts_of_windows(texts: Sequence[str], windows: Windows | None) -> tuple[str, ...]:
    """A text for each window, or one for all; the last serves all further ones.

    Raises UserError where there are more texts than windows.
    """
    count = 1 if windows is None else windows.count
    if len(texts) > count:
        raise UserError(
            f"the prompt has texts of {len(texts)} windows, and the clip has {count}: leave some out, or make it longer"
        )
    return tuple(texts) if len(texts) == 1 else (*texts, *[texts[-1]] * (count - len(texts)))


def sample_long(
    towers: TwinDiT,
    texts: Sequence[Texts],
    seed: int,
    shapes: Mapping[str, Sequence[int]],
    windows: Windows,
    settings: SamplerSettings,
    *,
    noise: str,
    given: Given,
    clean: Mapping[Modality, Tensor],
    again: Again | None,
    working: Callable[[], AbstractContextManager[Any]] = nullcontext,
    on_step: Callable[[int, int], None] | None = None,
) -> tuple[Tensor | None, Tensor | None]:
    """Video [1,C,F,h,w] and audio [1,L,C] of a clip; see `sample_windows`, and for `noise` `noise_for`."""
    device = texts[0].positive[0].device
    own: dict[Modality, tuple[int, ...]] = {}
    for modality, length in windows.lengths.items():
        shape = tuple(shapes[modality])
        own[modality] = (shape[0], length, *shape[2:]) if modality == "video" else (length, shape[1])
    begin = [
        {m: noise_batch([seed], s, m, convention=noise, window=k).to(device) for m, s in own.items()}
        for k in range(windows.count)
    ]
    made = sample_windows(
        towers, begin, texts, settings, windows, given=given, clean=clean, again=again, working=working,
        on_step=on_step,
    )  # fmt: skip
    return made.video, made.audio


def _inside(shared: int, length: int) -> int:
    return min(max(shared, 1), length - 1)


def shared_again(
    codec: Any, working: Callable[[Any], AbstractContextManager[Any]] = nullcontext
) -> Again | None:
    """What makes a window's beginning of the end of the one before; None for codecs whose latent frames are all alike.

    Args:
        codec: of video.
        working: `working(codec)` is entered while it works.
    """
    if not codec.first_frame_alone:
        return None
    stride = codec.strides[0]

    def again(latents_BCFhw: Tensor, shared: int) -> Tensor:
        """[B,C,O,h,w]: the last 1 + stride (O - 1) frames of the window, as the beginning of a clip."""
        with working(codec):
            frames = codec.decode(latents_BCFhw)
            encoded: Tensor = codec.encode(frames[:, -(1 + stride * (shared - 1)) :].contiguous())
        return encoded

    return again


def seams_of(windows: Windows, formats: Formats) -> dict[str, list[int]]:
    """The first picture frame, and the first sample of sound, that each later window adds."""
    found = {}
    if "video" in windows.starts:
        found["video"] = [formats.frames_before(n) for n in windows.seams("video")]
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
