"""The shape of one training clip, by which FLOPs, memory and tokens are counted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ovi_lab.errors import UserError
from ovi_lab.models.config import Modality, TowerConfig


@dataclass(frozen=True)
class ClipShape:
    """Latents of one clip; None where a modality is absent."""

    video: tuple[int, int, int] | None = None
    """Latent frames, rows, columns."""
    audio: int | None = None
    """Latents."""

    def tokens(self, towers: Mapping[Modality, TowerConfig]) -> dict[Modality, int]:
        """Tokens of each tower that this clip runs through."""
        found: dict[Modality, int] = {}
        if self.video is not None and "video" in towers:
            patch = towers["video"].patch_size or (1, 2, 2)
            count = 1
            for name, size, step in zip(("frames", "rows", "columns"), self.video, patch, strict=True):
                if size % step:
                    raise UserError(
                        f"a clip of {size} latent {name} does not divide into patches of {step}; give another size"
                    )
                count *= size // step
            found["video"] = count
        if self.audio is not None and "audio" in towers:
            found["audio"] = self.audio
        return found

    def __str__(self) -> str:
        parts = []
        if self.video is not None:
            parts.append("video " + "x".join(map(str, self.video)))
        if self.audio is not None:
            parts.append(f"audio {self.audio}")
        return ", ".join(parts)


def clips_of(batch: Mapping[str, Any]) -> list[ClipShape]:
    """The shape of every clip in a batch of latents: `video` [B, C, F, H, W], `audio` [B, L, C], or lists of clips."""
    shapes: list[ClipShape] = []
    video, audio = batch.get("video"), batch.get("audio")
    first = video if video is not None else audio
    for index in range(0 if first is None else len(first)):
        planes = length = None
        if video is not None:
            _, frames, rows, columns = video[index].shape
            planes = (int(frames), int(rows), int(columns))
        if audio is not None:
            length = int(audio[index].shape[0])
        shapes.append(ClipShape(planes, length))
    return shapes
