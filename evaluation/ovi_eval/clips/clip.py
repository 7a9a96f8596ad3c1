"""One file's picture and sound on one clock, from the first frame on and equally long.

Shapes: T frames, H rows, W columns, S samples.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ovi_eval.clips.container import shown_name
from ovi_eval.clips.picture import Video, decode_video
from ovi_eval.clips.sound import Audio, decode_audio
from ovi_eval.errors import UserError

MISSING_SECONDS = 0.5
MISSING_SHARE = 0.1
"""Sound may end before the picture by MISSING_SECONDS, or by this share of the picture where that is more."""


@dataclass(frozen=True)
class DecodedClip:
    """A clip: one file's picture and sound, both from the first frame on and equally long.

    `missing`: seconds at the end where the file has no sound, filled with silence.
    """

    name: str
    frames_THWC: Tensor
    fps: float
    wave_S: Tensor
    sample_rate: int
    missing: float = 0.0


def read_clip(
    source: str | Path | bytes, sample_rate: int | None = None, *, name: str | None = None
) -> DecodedClip:
    """One file's picture and sound on one clock, at a constant rate of frames.

    The sound is cut or padded with silence to begin with the first frame and to last round(T / fps * rate)
    samples. Raises UserError as `decode_video`, `decode_audio` and `aligned` do.
    """
    return aligned(
        shown_name(source, name),
        decode_video(source, name=name),
        decode_audio(source, sample_rate, name=name),
    )


def aligned(name: str, video: Video, audio: Audio) -> DecodedClip:
    """Picture and sound [S] on one clock, as `read_clip` has them. Raises UserError where too much sound is missing."""
    try:
        even = video.constant()
    except UserError as error:
        raise UserError(f"{name}: {error}") from error
    seconds = len(even.frames_THWC) / even.fps
    missing = missing_at_end(audio.end, float(video.times_T[0]), seconds, name)
    wave_S = from_start(audio, float(video.times_T[0]))
    return DecodedClip(
        name,
        even.frames_THWC,
        even.fps,
        fit_length(wave_S, round(seconds * audio.sample_rate)),
        audio.sample_rate,
        missing,
    )


def missing_at_end(sound_end: float, picture_start: float, seconds: float, name: str) -> float:
    """Seconds of a picture of `seconds` after its sound has ended, 0 where none are.

    Raises UserError naming the clip where they are more than MISSING_SECONDS and MISSING_SHARE of the picture, or the
    sound ends before the picture begins.
    """
    missing = picture_start + seconds - sound_end
    if missing > max(MISSING_SECONDS, MISSING_SHARE * seconds) or missing >= seconds:
        raise UserError(
            f"{name}: its sound ends {missing:.2f} s before its picture of {seconds:.2f} s; "
            f"up to {MISSING_SECONDS:g} s or {MISSING_SHARE:.0%} become silence"
        )
    return max(0.0, missing)


def from_start(audio: Audio, start: float) -> Tensor:
    """The wave [..., S] from `start` (seconds on its clock) on: its beginning cut, or silence before it."""
    late = round((audio.start - start) * audio.sample_rate)
    return audio.wave_S[..., -late:] if late < 0 else torch.nn.functional.pad(audio.wave_S, (late, 0))


def fit_length(wave_S: Tensor, samples: int) -> Tensor:
    """The wave [..., S] cut, or padded with silence, to `samples` at its end."""
    return torch.nn.functional.pad(wave_S, (0, samples - wave_S.shape[-1]))
