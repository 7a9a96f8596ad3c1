"""How files are packed, and what came of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ovi_lab.common.fields import Positive, checked
from ovi_lab.data.decode import OnResample
from ovi_lab.data.index import BadSample
from ovi_lab.data.kinds import BOTH, HEARD_EXTENSIONS, IMAGE_EXTENSIONS, VIDEO_EXTENSIONS
from ovi_lab.data.shards import MAX_MEMBER
from ovi_lab.errors import UserError

Store = Literal["auto", "arrays", "mp4", "original"]
ARRAYS_UP_TO = 128 * 128  # pixels; larger clips are stored as H.264 by default
REPORTED_FROM = 0.05  # seconds of silence or of a tail that are reported


@dataclass(frozen=True)
class PackOptions:
    """The common format of packed clips, and what is done with unusable files.

    Args:
        height, width: pixels. fps: frames a second. sample_rate: Hz.
        seconds: clips of that length, as many as a file holds; None: each file is one clip of its own length.
        store: "arrays" lossless, "mp4" H.264 and AAC, "original" the file's own bytes, "auto" arrays for
            small frames.
        crop_bars: black bars are cut off first.
        modalities: of the clips: both; "audio" alone, of sound files and videos; or "video" alone, of videos, whose
            sound is left out, and images, which become stills.
        on_error: "skip" files that cannot be used, counted and named, or "raise" at the first.
    """

    height: int = 64
    width: int = 64
    fps: float = 16.0
    sample_rate: int = 8000
    seconds: float | None = None
    clips_per_shard: int = 256
    store: Store = "auto"
    crop_bars: bool = False
    on_error: Literal["skip", "raise"] = "skip"
    on_resample: OnResample = "resample"
    modalities: Sequence[str] = BOTH

    def __post_init__(self) -> None:
        if not self.modalities or set(self.modalities) - set(BOTH):
            raise UserError(
                f"--modalities is {','.join(self.modalities)}; expected video, audio or video,audio"
            )
        if self.store == "mp4" and not self.has("video"):
            raise UserError(
                "--store mp4 is of pictures: sound alone is stored as arrays, or as it is (original)"
            )
        if self.store == "original" and not self.has("audio"):
            raise UserError("--store original keeps the sound of files: leave it out for silent clips")
        for name in ("height", "width", "fps", "sample_rate", "clips_per_shard"):
            checked(Positive, getattr(self, name), name)
        if self.seconds is not None and round(self.seconds * self.fps) < 1:
            raise UserError(f"{self.seconds} s at {self.fps} frames/s is no frame; clips need at least one")
        if self.store == "original" and (self.seconds is not None or self.crop_bars):
            raise UserError("--store original keeps files as they are: leave out --seconds and --crop-bars")
        frames = 1 if self.seconds is None else round(self.seconds * self.fps)
        if frames * self.height * self.width * 3 > MAX_MEMBER:
            raise UserError(
                f"{frames} frames of {self.height}x{self.width} are more than the {MAX_MEMBER / 2**30:.1f} GiB of one "
                "clip; ask for smaller or shorter clips"
            )

    def has(self, modality: str) -> bool:
        """Whether clips have it."""
        return modality in self.modalities

    @property
    def extensions(self) -> tuple[str, ...]:
        """Of the files that are packed."""
        if not self.has("video"):
            return HEARD_EXTENSIONS
        return VIDEO_EXTENSIONS if self.has("audio") else (*VIDEO_EXTENSIONS, *IMAGE_EXTENSIONS)

    @property
    def arrays(self) -> bool:
        small = self.height * self.width <= ARRAYS_UP_TO
        return self.store == "arrays" or (self.store == "auto" and small)


@dataclass
class PackReport:
    """The result of packing a folder.

    `tails`, `padded` and `lost_sound`: by file, seconds left out after the last whole clip, of silence where its sound
    has not begun or has ended, and of silence in place of lost packets. `retimed` and `resampled`: files by the rates
    they had. `replaced`: shards that existed. `ignored`: what else the folder and the captions hold, in words.
    """

    files: int = 0
    clips: int = 0
    shards: list[Path] = field(default_factory=list)
    skipped: list[BadSample] = field(default_factory=list)
    resampled: Counter[int] = field(default_factory=Counter)
    retimed: Counter[float] = field(default_factory=Counter)
    tails: dict[str, float] = field(default_factory=dict)
    padded: dict[str, float] = field(default_factory=dict)
    lost_sound: dict[str, float] = field(default_factory=dict)
    replaced: list[Path] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)


def count_seconds(seconds_by_file: dict[str, float], name: str, seconds: float) -> None:
    """Add seconds to those of a file, where they are enough to be reported."""
    if seconds >= REPORTED_FROM:
        seconds_by_file[name] = seconds_by_file.get(name, 0.0) + seconds
