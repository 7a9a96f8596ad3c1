"""The format that clips are converted to before they are encoded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ovi_lab.errors import UserError


@dataclass(frozen=True)
class MediaFormat:
    """The format that every clip is converted to: size in pixels, length in frames, rates in 1/s and Hz."""

    num_frames: int
    height: int
    width: int
    fps: float
    sample_rate: int

    @property
    def num_samples(self) -> int:
        """Samples of the sound, which lasts as long as the frames."""
        return round(self.num_frames * self.sample_rate / self.fps)

    @property
    def seconds(self) -> float:
        return self.num_frames / self.fps


def parsed_format(parts: Mapping[str, Any]) -> MediaFormat | None:
    """The media format of `data`'s settings, all of it or none. Raises UserError where a part is missing."""
    given = [name for name, value in parts.items() if value is not None]
    if not given:
        return None
    if len(given) < len(parts):
        missing = [f"data.{name}" for name in parts if name not in given]
        raise UserError(f"data.{given[0]} is set, so {', '.join(missing)} must be too")
    return MediaFormat(**parts)
