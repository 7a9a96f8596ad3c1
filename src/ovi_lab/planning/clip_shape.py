"""The shape of one training clip, by which FLOPs, memory and tokens are counted."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ovi_lab.errors import UserError
from ovi_lab.models.config import MODALITIES, Modality, TowerConfig


@dataclass(frozen=True)
class ClipShape:
    """Latents of one clip; None where a modality is absent."""

    video: tuple[int, ...] | None = None
    """Latent frames, rows, columns."""
    audio: int | None = None
    """Latents."""

    @classmethod
    def of_latents(cls, shapes: Mapping[str, Sequence[int]]) -> ClipShape:
        """The clip of latents of these shapes: `video` [C, F, H, W], `audio` [L, C]."""
        video, audio = shapes.get("video"), shapes.get("audio")
        planes = None if video is None else tuple(map(int, video[1:]))
        return cls(planes, None if audio is None else int(audio[0]))

    @classmethod
    def typed(cls, words: Mapping[str, str]) -> ClipShape | None:
        """The clip that `video=31x44x46` and `audio=157` describe; None where neither is given.

        Raises UserError for other words.
        """
        video = _sizes(words, "video", 3, "latent frames, rows, columns, as 31x44x46")
        audio = _sizes(words, "audio", 1, "a number of latents, as 157")
        return cls(video, audio[0] if audio else None) if video or audio else None

    def tokens(self, towers: Mapping[Modality, TowerConfig]) -> dict[Modality, int]:
        """Tokens of each tower that this clip runs through."""
        found: dict[Modality, int] = {}
        if self.video is not None and "video" in towers:
            patch = towers["video"].patch_size or (1, 2, 2)
            for name, size, step in zip(("frames", "rows", "columns"), self.video, patch, strict=True):
                if size % step:
                    raise UserError(
                        f"a clip of {size} latent {name} does not divide into patches of {step}; give another size"
                    )
            found["video"] = math.prod(self.video) // math.prod(patch)
        if self.audio is not None and "audio" in towers:
            found["audio"] = self.audio
        return found

    def __str__(self) -> str:
        video = None if self.video is None else "video " + "x".join(map(str, self.video))
        audio = None if self.audio is None else f"audio {self.audio}"
        return ", ".join(filter(None, (video, audio)))


def _sizes(words: Mapping[str, str], key: str, count: int, expected: str) -> tuple[int, ...] | None:
    """The numbers above 0 with x between them that a word gives, if it is given."""
    if key not in words:
        return None
    if not re.fullmatch("x".join([r"0*[1-9]\d*"] * count), words[key]):
        raise UserError(f"{key}={words[key]} is not understood: {expected}")
    return tuple(map(int, words[key].split("x")))


def clips_of(batch: Mapping[str, Any]) -> list[ClipShape]:
    """The shape of every clip in a batch of latents: `video` [B, C, F, H, W], `audio` [B, L, C], or lists of clips."""
    clips = itertools.zip_longest(*(() if batch.get(m) is None else batch[m] for m in MODALITIES))
    return [
        ClipShape.of_latents(
            {m: latents.shape for m, latents in zip(MODALITIES, clip, strict=True) if latents is not None}
        )
        for clip in clips
    ]
