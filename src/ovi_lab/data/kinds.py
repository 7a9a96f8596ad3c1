"""What a sample is, by the names of its members: latents or media, and of media which modalities they have."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Literal

from ovi_eval.clips.container import opened
from ovi_eval.common.shown import shown
from ovi_lab.data.index import LATENTS, BadSampleError, bad_sample

VIDEO_EXTENSIONS = ("mp4", "mov", "mkv", "webm", "m4v", "avi")
SOUND_EXTENSIONS = ("wav", "flac", "ogg", "opus", "mp3", "m4a")
IMAGE_EXTENSIONS = ("png", "jpg", "jpeg", "webp", "bmp", "tif", "tiff")
HEARD_EXTENSIONS = SOUND_EXTENSIONS + VIDEO_EXTENSIONS
"""Files that have sound."""
SILENT = "silent.mp4"
"""A video file without sound, so named that an index tells it."""
SEEN_EXTENSIONS = (*VIDEO_EXTENSIONS, SILENT)
"""Files that have a picture."""
FRAMES, WAVE = "frames.npy", "wave.npy"
BOTH = ("video", "audio")

Require = Literal["all", "any"]
"""Whether a sample must have all modalities that are read, or may lack some."""


def kind_of(
    members: Collection[str], modalities: Sequence[str] = BOTH, require: Require = "all"
) -> Literal["latents", "media"]:
    """The kind of a sample with these members. Raises BadSampleError naming the member that is missing.

    Only members of the modalities are needed; with `require="any"` those of one of them.
    """
    kind: Literal["latents", "media"] = "latents" if LATENTS in members else "media"
    if kind == "media":
        _check_media(members, modalities, require)
    if "json" not in members and "txt" not in members:
        raise BadSampleError("its .json (or .txt) with the caption is missing")
    return kind


def _check_media(members: Collection[str], modalities: Sequence[str], require: Require) -> None:
    """Raises BadSampleError where media lack what is needed."""
    wanted = [name for name, m in ((FRAMES, "video"), (WAVE, "audio")) if m in modalities]
    if "video" not in modalities:
        files: Sequence[str] = HEARD_EXTENSIONS
    elif "audio" not in modalities:
        files = SEEN_EXTENSIONS
    else:
        files = VIDEO_EXTENSIONS
    if require == "any" and modalities_of(members, modalities):
        if any(array in members for array in wanted) and "json" not in members:
            raise BadSampleError("its .json is missing")
    elif require == "all" and any(array in members for array in wanted):
        for needed in (*wanted, "json"):
            if needed not in members:
                raise BadSampleError(f"its .{needed} is missing")
    elif require == "any" or not any(extension in members for extension in files):
        raise BadSampleError(
            f"it has no .{files[0]}, .{wanted[0]} or .{LATENTS}, only .{shown(', .'.join(sorted(members)))}"
        )


def modalities_of(members: Collection[str], modalities: Sequence[str] = BOTH) -> tuple[str, ...]:
    """Those of `modalities` that media with these members have; a video file counts as one with sound unless it is
    named as silent."""
    has = {
        "video": any(name in members for name in (FRAMES, *SEEN_EXTENSIONS)),
        "audio": any(name in members for name in (WAVE, *HEARD_EXTENSIONS)),
    }
    return tuple(m for m in modalities if has[m])


def modalities_in(members: Mapping[str, bytes], modalities: Sequence[str] = BOTH) -> tuple[str, ...]:
    """Those of `modalities` that media have; of a video file without a sound file its tracks are looked at.

    Raises BadSampleError where it cannot be opened.
    """
    named = modalities_of(members, modalities)
    video = next((name for name in VIDEO_EXTENSIONS if name in members), None)
    if video is None or "audio" not in named or any(name in members for name in (WAVE, *SOUND_EXTENSIONS)):
        return named
    with bad_sample(), opened(members[video], "its video") as (container, _):
        return named if container.streams.audio else tuple(m for m in named if m != "audio")


def missing_part(part: str, there: Collection[str]) -> str:
    """Why latents without a required part cannot be used."""
    what = "text embedding" if part == "text" else f"{part} latents"
    return f"it has no {what}, only {' and '.join(sorted(there)) or 'nothing'}"
