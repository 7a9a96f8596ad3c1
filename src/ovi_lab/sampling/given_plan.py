"""What files give of a requested clip, decided before any weights are loaded.

Shapes: F latent frames, L audio tokens, N either.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from ovi_eval.common.files import file_sha256
from ovi_eval.common.shown import shown
from ovi_lab.errors import UserError
from ovi_lab.models.config import MODALITIES, Modality
from ovi_lab.models.given import Given, Mask
from ovi_lab.sampling.bundle import Formats
from ovi_lab.sampling.given_files import GIVEN, REDO_FORM, Redo, check_given
from ovi_lab.sampling.given_tracks import (
    WORDS,
    GivenTrack,
    check_length,
    check_tracks,
    first_frame_time,
    picture_track,
    remarks,
    sound_track,
)
from ovi_lab.sampling.requests import Request
from ovi_lab.sampling.sizes import Size

NEAR = 1e-6
"""Seconds below which two moments are one."""
SHOWN_TO = 0.005
"""Seconds by which a clip's length as messages show it may differ from its length."""
Spans = tuple[tuple[int, int], ...]
"""Latent frames or tokens: the first of each span and the one past its last."""


@dataclass(frozen=True)
class GivenPart:
    """What of one modality is given, by which file."""

    file: Path
    sha256: str
    spans: Spans
    length: int
    """Latent frames or tokens of the clip."""
    seconds: tuple[tuple[float, float], ...]
    """Of the spans, in the clip."""
    remarks: tuple[str, ...] = ()
    """What is done to the file to make it fit, in words."""

    @property
    def whole(self) -> bool:
        """Whether nothing of the modality is left to generate."""
        return self.spans == ((0, self.length),)

    @property
    def mask(self) -> Mask:
        """bool [1, N]."""
        mask_1N = np.zeros((1, self.length), dtype=bool)
        for first, end in self.spans:
            mask_1N[:, first:end] = True
        return mask_1N


@dataclass(frozen=True)
class GivenParts:
    """All that files give of a clip."""

    video: GivenPart | None = None
    audio: GivenPart | None = None
    size: Size | None = None
    """Height and width of the file's picture; None where no picture is given."""
    begins: float | None = None
    """Seconds on the file's clock at which the clip begins: its first frame's; None: where its sound does."""

    @property
    def parts(self) -> dict[Modality, GivenPart]:
        """Those that are given, by modality."""
        found: dict[Modality, GivenPart | None] = {"video": self.video, "audio": self.audio}
        return {modality: part for modality, part in found.items() if part is not None}

    @property
    def masks(self) -> Given:
        """Of a batch of this clip."""
        masks = {modality: part.mask for modality, part in self.parts.items()}
        return Given(masks.get("video"), masks.get("audio"))

    def lines(self) -> list[str]:
        """A line for each modality: which seconds are kept of which file, and what was done to it."""
        said = []
        for modality, part in self.parts.items():
            seconds = " and ".join(f"{start:.2f} to {end:.2f} s" for start, end in part.seconds)
            remarks = f" ({'; '.join(part.remarks)})" if part.remarks else ""
            said.append(f"{WORDS[modality]} of {shown(part.file.name)} is given from {seconds}{remarks}")
        return said


def plan_given(request: Request, formats: Formats) -> GivenParts | None:
    """What a request's media give of its clip; None where it has none. (Its image is not among them.)

    Raises:
        UserError: files that do not go together, cannot be read, lack the picture or sound that is needed of them, or
            are too short; a part that the model does not make or that lies outside the clip; nothing left to make.
    """
    mode = check_given(request.files, request.image, request.redo)
    file = None if mode is None else request.files[mode]
    if mode is None or file is None:
        return None
    name = f"{GIVEN[mode]} {shown(file.name)}"
    made: list[Modality] = [m for m in MODALITIES if m in formats.shapes]
    seconds = formats.frames / formats.fps
    spans: dict[Modality, Spans] = {}
    if mode == "clip" and request.redo is not None:
        spans = _all_but(request.redo, made, formats)
    elif mode != "start":
        whole: Modality = "video" if mode == "video" else "audio"
        if whole not in made:
            raise UserError(f"{formats.name} makes no {WORDS[whole]}: leave out {mode}")
        if made == [whole]:
            raise UserError(
                f"{formats.name} makes no more than the {WORDS[whole]}, and all of it is given: leave out {mode}"
            )
        spans = {whole: ((0, len(formats.edges(whole)) - 1),)}
    needed = [m for m in made if mode == "start" or spans.get(m)]
    has_picture = "video" in check_tracks(file, name, needed)
    tracks: dict[Modality, GivenTrack] = {}
    if "video" in needed:
        tracks["video"] = picture_track(file, name, seconds)
        begins: float | None = tracks["video"].begins
    else:
        begins = first_frame_time(file, name) if has_picture else None
    if "audio" in needed:
        tracks["audio"] = sound_track(file, name, begins)
    if mode == "start":
        spans, seconds = _beginning(tracks, name, formats)
    digest = file_sha256(file)
    parts: dict[Modality, GivenPart] = {}
    for modality, track in tracks.items():
        check_length(track, name, seconds, formats)
        edges = formats.edges(modality)
        lasting = tuple((round(edges[a], 4), round(edges[b], 4)) for a, b in spans[modality])
        said = remarks(track, seconds, formats)
        parts[modality] = GivenPart(file, digest, spans[modality], len(edges) - 1, lasting, said)
    size = tracks["video"].size if "video" in tracks else None
    return GivenParts(parts.get("video"), parts.get("audio"), size, begins)


def _all_but(redo: Redo, made: list[Modality], formats: Formats) -> dict[Modality, Spans]:
    """What is kept of each modality: all that lies in no second which is made anew."""
    for modality in redo.modalities:
        if modality not in made:
            raise UserError(f"redo={redo}: {formats.name} makes no {WORDS[modality]}")
    seconds = formats.frames / formats.fps
    if redo.start >= seconds or redo.end > seconds + SHOWN_TO:
        raise UserError(f"redo={redo} lies outside of the clip, which has {seconds:.2f} s: give {REDO_FORM}")
    end = math.inf if redo.end > seconds - SHOWN_TO else redo.end - NEAR
    spans: dict[Modality, Spans] = {}
    for modality in made:
        edges = list(pairwise(formats.edges(modality)))
        anew = [modality in redo.modalities and b > redo.start + NEAR and a < end for a, b in edges]
        spans[modality] = _spans([n for n in range(len(edges)) if not anew[n]])
    if not any(spans.values()):
        raise UserError(f"redo={redo} leaves nothing of the clip: leave out clip and redo")
    return spans


def _spans(places: list[int]) -> Spans:
    """Runs of successive numbers."""
    firsts = [n for i, n in enumerate(places) if not i or places[i - 1] != n - 1]
    ends = [n + 1 for i, n in enumerate(places) if i + 1 == len(places) or places[i + 1] != n + 1]
    return tuple(zip(firsts, ends, strict=True))


def _beginning(
    tracks: Mapping[Modality, GivenTrack], name: str, formats: Formats
) -> tuple[dict[Modality, Spans], float]:
    """The whole latent frames and tokens within a file, the same seconds of both, and these seconds."""
    leading: Modality = "video" if "video" in tracks else "audio"
    track, edges = tracks[leading], formats.edges(leading)
    half = 0.5 / formats.fps if leading == "video" else 0.0
    count = sum(edge <= track.lasts + half + NEAR for edge in edges[1:])
    if count == len(edges) - 1:
        raise UserError(
            f"{name} lasts {track.lasts:.2f} s and the clip {edges[-1]:.2f} s, so that nothing is left to make: "
            "cut the file, or make the clip longer with length="
        )
    seconds = edges[count]
    spans: dict[Modality, Spans] = {}
    for modality in tracks:
        whole = sum(edge <= seconds + NEAR for edge in formats.edges(modality)[1:])
        if not whole:
            raise UserError(
                f"{name} lasts {track.lasts:.2f} s, less than one latent of the {WORDS[modality]} "
                f"({formats.edges(modality)[1]:.2f} s): give a longer beginning"
            )
        spans[modality] = ((0, whole),)
    return spans, seconds
