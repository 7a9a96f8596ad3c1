"""The picture and the sound of a given file, looked at before any weights are loaded: are they there, how long, at
which rate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ovi_eval.clips.clip import MISSING_SECONDS, MISSING_SHARE
from ovi_eval.clips.container import opened
from ovi_eval.clips.picture import PictureStream
from ovi_eval.clips.sound import SoundStream
from ovi_lab.data.dataset import other_rate
from ovi_lab.errors import UserError
from ovi_lab.models.config import Modality
from ovi_lab.sampling.bundle import Formats
from ovi_lab.sampling.sizes import Size, check_shape

WORDS: dict[Modality, str] = {"video": "picture", "audio": "sound"}
TOLD_FROM = 0.05
"""Seconds of added silence, or of a file's unused end, from which on a note is printed."""


@dataclass(frozen=True)
class GivenTrack:
    """A file's picture or sound.

    `begins`: seconds on the file's clock at which its clip begins; `starts`: at which the track does; `lasts`: seconds
    of it from `begins` on; `rate`: frames or samples a second; `size`: height and width of a picture.
    """

    begins: float
    starts: float
    lasts: float
    rate: float
    size: Size | None = None


def check_tracks(file: Path, name: str, needed: Sequence[Modality]) -> list[Modality]:
    """What a file has of picture and sound; `name` is what it is called.

    Raises UserError where it cannot be read, or lacks one that is needed.
    """
    with opened(file, name) as (container, _):
        cover = [stream.disposition & stream.disposition.attached_pic for stream in container.streams.video]
        there: dict[Modality, bool] = {"video": not all(cover), "audio": bool(container.streams.audio)}
    for modality in needed:
        if not there[modality]:
            raise UserError(f"{name} has no {WORDS[modality]}: give a file that has one")
    return [modality for modality, has in there.items() if has]


def first_frame_time(file: Path, name: str) -> float:
    """Seconds on a file's clock at which its picture begins. Raises UserError where it cannot be decoded."""
    with PictureStream(file, name=name, transform=_corner) as picture:
        return picture.start


def picture_track(file: Path, name: str, seconds: float) -> GivenTrack:
    """A file's picture; up to a second more than `seconds`, its length is counted by its frames.

    Raises UserError where it cannot be decoded, or is of extreme shape.
    """
    with PictureStream(file, name=name, transform=_corner) as picture:
        lasts = picture.spans
        if lasts < seconds + 1:
            for _ in picture:
                pass
            lasts = picture.end - picture.start
        check_shape(picture.size, name)
        return GivenTrack(picture.start, picture.start, lasts, picture.fps, picture.size)


def _corner(frame_HWC: Tensor) -> Tensor:
    """A frame of which nothing is kept."""
    return frame_HWC[:1, :1].clone()


def sound_track(file: Path, name: str, begins: float | None) -> GivenTrack:
    """A file's sound, for a clip that begins at a moment of the file's clock; None: with the sound.

    Raises UserError where it cannot be decoded.
    """
    with SoundStream(file, name=name) as sound:
        begins = sound.start if begins is None else begins
        return GivenTrack(begins, sound.start, sound.ends - begins, sound.sample_rate)


def check_length(track: GivenTrack, name: str, seconds: float, formats: Formats) -> None:
    """Raises UserError for a picture or sound that ends before `seconds`, by the rules that training has.

    Half a frame may be missing at a picture's end, which containers round, and `MISSING_SECONDS` or `MISSING_SHARE` of
    a sound, which become silence.
    """
    missing = seconds - track.lasts
    if track.size is not None:
        refused = missing > 0.5 / min(track.rate, formats.fps)
    else:
        refused = missing > max(MISSING_SECONDS, MISSING_SHARE * seconds) or track.lasts <= 0
    if refused:
        what = WORDS["audio" if track.size is None else "video"]
        raise UserError(
            f"the {what} of {name} lasts {max(track.lasts, 0):.2f} s and the clip {seconds:.2f} s: give a longer file"
            + _shorter(track, formats)
        )


def _shorter(track: GivenTrack, formats: Formats) -> str:
    """How the clip can be made as short as a file."""
    edges = formats.edges("video" if "video" in formats.shapes else "audio")
    fitting = sum(edge <= track.lasts for edge in edges[1:])
    trained = round((len(edges) - 1) / formats.length)
    return f", or make the clip shorter with length={fitting / trained:.3g}" if fitting else ""


def remarks(track: GivenTrack, seconds: float, formats: Formats) -> tuple[str, ...]:
    """What is done to a track to make it `seconds` of a clip, in words."""
    said = []
    if track.size is not None and other_rate(track.rate, formats.fps):
        said.append(f"{track.rate:.4g} to {formats.fps:g} frames/s")
    if track.size is None and track.rate != formats.sample_rate:
        said.append(f"{track.rate:g} to {formats.sample_rate} Hz")
    if track.lasts > seconds + TOLD_FROM:
        said.append(f"cut from {track.lasts:.2f} to {seconds:.2f} s")
    if track.size is None:
        silent = max(0.0, track.starts - track.begins) + max(0.0, seconds - track.lasts)
        if silent >= TOLD_FROM:
            said.append(f"{silent:.2f} s of silence where it has no sound")
    return tuple(said)
