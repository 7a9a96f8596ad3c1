"""Which parts of a clip a request gives, by which files: `video`, `audio`, `start`, or `clip` with `redo`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ovi_lab.errors import UserError
from ovi_lab.models.config import MODALITIES, Modality

GIVEN = {
    "video": "the given video",
    "audio": "the given sound",
    "start": "the given beginning",
    "clip": "the clip to redo",
}
"""The fields of a request that name a file, as messages call them."""
REDO_FORM = "redo=audio:1.5-3.0 (or video:…, both:…), in seconds of the clip"


@dataclass(frozen=True)
class Redo:
    """What of a given clip is made anew: seconds of its picture, its sound or both."""

    modalities: tuple[Modality, ...]
    start: float
    end: float

    def __str__(self) -> str:
        what = "both" if len(self.modalities) == len(MODALITIES) else self.modalities[0]
        return f"{what}:{self.start:g}-{self.end:g}"


def parse_redo(text: str) -> Redo:
    """`audio:1.5-3.0`, `video:0-2`, `both:1-2.5`. Raises UserError for anything else."""
    match = re.fullmatch(
        r"\s*(audio|video|both)\s*:\s*(\d{1,6}(?:\.\d+)?)\s*-\s*(\d{1,6}(?:\.\d+)?)\s*", text
    )
    if match is None:
        raise UserError(f"redo={text} is not understood: give {REDO_FORM}")
    what, start, end = match[1], float(match[2]), float(match[3])
    if start >= end:
        raise UserError(
            f"redo={text} ends before it begins: give the earlier second first, as in {REDO_FORM}"
        )
    modalities = MODALITIES if what == "both" else tuple(m for m in MODALITIES if m == what)
    return Redo(modalities, start, end)


def check_given(files: Mapping[str, Path | None], image: Path | None, redo: Redo | None) -> str | None:
    """The field of `GIVEN` that a request uses; None where it uses none. `files`: its values of these fields.

    Raises UserError for fields that do not go together.
    """
    used = [name for name in GIVEN if files.get(name) is not None]
    if {"video", "audio"} <= set(used):
        raise UserError(
            "video and audio are both given whole, and nothing is left to make: leave one out, or give clip=FILE with "
            + REDO_FORM
        )
    if len(used) > 1:
        raise UserError(f"{' and '.join(used)} are both given: give one of {', '.join(GIVEN)}")
    mode = used[0] if used else None
    if image is not None and mode not in (None, "audio"):
        raise UserError(f"image and {mode} both give the first frame: leave one out")
    if (redo is not None) != (mode == "clip"):
        if redo is None:
            raise UserError(f"clip is given without the part that is made anew: give {REDO_FORM}")
        raise UserError("redo is given without the clip whose part is made anew: give clip=FILE")
    return mode
