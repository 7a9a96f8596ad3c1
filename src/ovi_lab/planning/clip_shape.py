"""The shape of one training clip, by which FLOPs, memory and tokens are counted."""

from __future__ import annotations

import itertools
import math
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


def clips_of(batch: Mapping[str, Any]) -> list[ClipShape]:
    """The shape of every clip in a batch of latents: `video` [B, C, F, H, W], `audio` [B, L, C], or lists of clips."""
    clips = itertools.zip_longest(*(() if batch.get(m) is None else batch[m] for m in MODALITIES))
    return [
        ClipShape.of_latents(
            {m: latents.shape for m, latents in zip(MODALITIES, clip, strict=True) if latents is not None}
        )
        for clip in clips
    ]
