"""Given files as frames and sound of the clip, as its clean latents, and put back into the clip that was made.

They are decoded, retimed, scaled, cropped and encoded as training does it (`ovi_lab.data`, the codecs).

Shape suffixes: T frames, H rows, W columns, C channels, F latent frames, S samples, L audio tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ovi_eval.clips.clip import fit_length, missing_at_end
from ovi_eval.common.shown import shown
from ovi_lab.data.decode import fit_frame
from ovi_lab.data.index import BadSampleError
from ovi_lab.data.media_files import read_picture, read_sound, sound_at
from ovi_lab.errors import UserError
from ovi_lab.models.config import Modality
from ovi_lab.sampling.bundle import Formats
from ovi_lab.sampling.given_plan import GivenPart, GivenParts
from ovi_lab.sampling.sizes import Size

CROSS_FADE = 0.02
"""Seconds over which the sound of a file becomes that of the codec, at a border inside a clip."""


@dataclass(frozen=True)
class GivenMedia:
    """A file's frames uint8 [T, H, W, 3] and wave float32 [S] in the clip's size and rates, from the clip's beginning
    on; None where no part of them is given.
    """

    frames_THWC: Tensor | None = None
    wave_S: Tensor | None = None


def read_given(given: GivenParts, formats: Formats, size: Size) -> GivenMedia:
    """The files of a clip, decoded as far as they are given.

    Raises UserError where they cannot be decoded, or lack more than they seemed to before they were decoded.
    """
    frames_THWC = wave_S = None
    if given.video is not None:
        name, count = _called(given.video), formats.frames_before(given.video.spans[-1][1])
        try:
            frames_THWC = read_picture(
                given.video.file, name, formats.fps, count, lambda frame_HWC: fit_frame(frame_HWC, *size)
            ).frames_THWC
        except BadSampleError as error:
            raise UserError(f"{name}: {error}") from error
    if given.audio is not None:
        wave_S = _read_wave(given.audio, given.begins, formats)
    return GivenMedia(frames_THWC, wave_S)


def _called(part: GivenPart) -> str:
    return f"the given file {shown(part.file.name)}"


def _read_wave(part: GivenPart, begins: float | None, formats: Formats) -> Tensor:
    """[S] from the clip's beginning to the end of what is given, at least; on to the clip's end where the file is."""
    rate, seconds = formats.sample_rate, part.seconds[-1][1]
    least = max(round(seconds * rate), part.spans[-1][1] * formats.token_samples)
    most = max(formats.samples, least)
    sound = read_sound(part.file, _called(part), most / rate, begins)
    missing_at_end(len(sound.wave_S) / sound.sample_rate, 0.0, seconds, _called(part))
    own = round(len(sound.wave_S) * rate / sound.sample_rate)
    return sound_at(sound, rate, min(max(own, least), most))


def encoded(
    media: GivenMedia,
    shapes: Mapping[str, tuple[int, ...]],
    video_codec: Any,
    audio_codec: Any,
    working: Callable[[Any], AbstractContextManager[Any]] = nullcontext,
) -> dict[Modality, Tensor]:
    """Clean latents [1, C, F, h, w] and [1, L, C] of a clip's shapes, zeros past what is given.

    `working(codec)` is entered while a codec encodes.
    """
    clean: dict[Modality, Tensor] = {}
    if media.frames_THWC is not None:
        with working(video_codec):
            video_1CFhw = video_codec.encode(media.frames_THWC[None])
        clean["video"] = video_1CFhw.new_zeros(1, *shapes["video"])
        clean["video"][:, :, : video_1CFhw.shape[2]] = video_1CFhw
    if media.wave_S is not None:
        with working(audio_codec):
            audio_1LC = audio_codec.encode(media.wave_S[None])[:, : shapes["audio"][0]]
        clean["audio"] = audio_1LC.new_zeros(1, *shapes["audio"])
        clean["audio"][:, : audio_1LC.shape[1]] = audio_1LC
    return clean


def put_back(
    media: GivenMedia, given: GivenParts, formats: Formats, frames_THWC: Tensor, wave_S: Tensor
) -> tuple[Tensor, Tensor]:
    """A decoded clip with what is given of it from the file itself.

    Inside a clip the picture changes from one frame to the next; the sound crosses over within `CROSS_FADE` before the
    border, inside of what is given. A modality of which all is given need not have been decoded.
    """
    if given.video is not None and media.frames_THWC is not None:
        if given.video.whole:
            frames_THWC = media.frames_THWC
        else:
            frames_THWC = frames_THWC.clone()
            for span in given.video.spans:
                first, end = (formats.frames_before(n) for n in span)
                frames_THWC[first:end] = media.frames_THWC[first:end]
    samples = round(len(frames_THWC) * formats.sample_rate / formats.fps)
    wave_S = fit_length(wave_S, samples)
    if given.audio is None or media.wave_S is None:
        return frames_THWC, wave_S
    own_S = fit_length(media.wave_S, samples)
    if given.audio.whole:
        return frames_THWC, own_S
    return frames_THWC, torch.lerp(wave_S, own_S, _shares(given.audio, formats, samples))


def _shares(part: GivenPart, formats: Formats, samples: int) -> Tensor:
    """[S]: 1 where the sound is the file's, 0 where it is the codec's, raised cosines between."""
    share_S = torch.zeros(samples)
    for first, end in part.spans:
        a = min(first * formats.token_samples, samples)
        b = samples if end == part.length else min(end * formats.token_samples, samples)
        share_S[a:b] = 1
        fade = min(round(CROSS_FADE * formats.sample_rate), (b - a) // 2)
        rise = 0.5 - 0.5 * torch.cos(math.pi * (torch.arange(fade) + 0.5) / max(fade, 1))
        if a > 0:
            share_S[a : a + fade] = rise
        if b < samples:
            share_S[b - fade : b] = rise.flip(0)
    return share_S
