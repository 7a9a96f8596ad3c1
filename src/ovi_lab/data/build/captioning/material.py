"""What a captioner gets of a clip: 7 frames evenly spaced over it, its whole sound, and what is asked of it.

Shapes: T frames, H rows, W columns.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from ovi_eval.common.shown import shown
from ovi_lab.data.build.assemble import ClipRow, StoredMedia
from ovi_lab.data.build.captioning.assembled import Assembly
from ovi_lab.data.build.items import wav_bytes
from ovi_lab.data.decode import read_media
from ovi_lab.data.index import BadSampleError
from ovi_lab.errors import UserError

FRAMES = 7
"""As the paper has it (arXiv 2510.01284)."""
SIDE = 768
"""Longer side in pixels of the frames at most."""


@dataclass(frozen=True)
class Material:
    """A clip for a captioner: JPEG frames (none of sound alone), a WAV in one channel (None of a silent clip)."""

    row: ClipRow
    frames: Sequence[bytes]
    wav: bytes | None
    seconds: float

    @property
    def key(self) -> str:
        """Of the clip."""
        return str(self.row.clip["key"])

    @property
    def sha256(self) -> str:
        """Of its media."""
        return str(self.row.clip["sha256"])

    @property
    def instructions(self) -> str:
        """What is asked of the captioner."""
        return instructions(len(self.frames), self.wav is not None, self.seconds)


def materials(assembly: Assembly, rows: Sequence[ClipRow]) -> Iterator[Material]:
    """The material of clips, one by one. Raises UserError where their stored media cannot be read."""
    with closing(StoredMedia(assembly.folder.work)) as media:
        for row in rows:
            key = row.clip["key"]
            try:
                yield _material(row, media.of(row.source, key))
            except (BadSampleError, KeyError) as error:
                where = shown(assembly.folder.work / f"{row.source.digest}.tar")
                raise UserError(
                    f"{shown(key)} cannot be read from {where} ({shown(error)}); build again"
                ) from error


def _material(row: ClipRow, members: dict[str, bytes]) -> Material:
    seen = "mp4" in members
    modalities = ("video", "audio") if seen else ("audio",)
    clip = read_media({**members, "json": b'{"caption": ""}'}, modalities=modalities)
    places = np.linspace(0, len(clip.frames_THWC) - 1, FRAMES).round().astype(int) if seen else ()
    frames = [jpeg(clip.frames_THWC[place]) for place in places]
    heard = bool(clip.wave_S.abs().max() > 0)
    wav = wav_bytes(clip.wave_S, clip.sample_rate) if heard else None
    return Material(row, frames, wav, len(clip.wave_S) / clip.sample_rate)


def jpeg(frame_HWC: Tensor) -> bytes:
    """A frame as JPEG, its longer side at most SIDE pixels."""
    from PIL import Image

    picture = Image.fromarray(frame_HWC.numpy())
    picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def instructions(frames: int, heard: bool, seconds: float) -> str:
    """What is asked of a captioner about a clip of so many frames, with or without a sound."""
    media = [f"{frames} frames, evenly spaced over a video clip"] if frames else []
    media += ["the whole sound track"] if heard and frames else ["a sound recording"] if heard else []
    events = (
        "First tell the visible events in the order of time: who and what is there, how it looks and moves, the place, "
        "the light and the camera."
    )
    speech = "Where someone speaks, put the exact words in place between <S> and <E>."
    sound = (
        "End with one description of the sound between <AUDCAP> and <ENDAUDCAP>: of each voice age, gender, accent, "
        "pitch, prosody, emotion and rate; otherwise effects, background sounds and music. Nothing follows it."
    )
    parts = [
        f"You get {' and '.join(media)} of {seconds:.2f} s.",
        "Describe it in one text without headings, lists or line breaks.",
        events if frames else "",
        speech if heard else "",
        sound if heard else "It has no sound: write nothing about sound.",
        "Answer with this text alone.",
    ]
    return " ".join(filter(None, parts))
