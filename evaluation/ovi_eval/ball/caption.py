"""Does the clip show and sound what its caption says? The ball's colour, the drum's pitch, the number of bounces.

What is there comes from the detectors, what should be there from the caption's words: the colours of the world,
`low`, `middle`, `high` or `piercing` before `drum`, and a number word before `times`. A caption that leaves one of
them out has no value of it; a clip without a ball, or without a drum, does not have what its caption says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from ovi_eval.ball.detectors import COLOURS
from ovi_eval.ball.extractor import BallEvents
from ovi_eval.clips.clipset import ClipSet
from ovi_eval.metrics.base import Extractor, Features, ItemMean, ValueSpec

PITCHES = ("low", "middle", "high", "piercing")
"""The words of the drums, in the order of their balls' colours."""
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven")


@dataclass(frozen=True)
class Told:
    """What a caption says: places in COLOURS and PITCHES and the number of bounces, each -1 where it says nothing."""

    colour: int
    pitch: int
    count: int

    @classmethod
    def of(cls, caption: str) -> Told:
        words = caption.lower().split()
        following = dict(zip(words[1:], words, strict=False))
        return cls(
            colour=next((COLOURS.index(word) for word in words if word in COLOURS), -1),
            pitch=_place(PITCHES, following.get("drum")),
            count=_place(NUMBERS, following.get("times")),
        )


class BallTold(BallEvents):
    """As BallEvents, and `told`, int64 [3]: the caption's colour, pitch and number of bounces, -1 where not said."""

    name = "ball_told"
    reads_caption = True

    def look(self, clips: ClipSet) -> list[Features]:
        told = (Told.of(caption) for caption in clips.captions)
        return [
            {**found, "told": torch.tensor([says.colour, says.pitch, says.count])}
            for found, says in zip(super().look(clips), told, strict=True)
        ]


class CaptionFollowed(ItemMean):
    """Share of clips whose colour, pitch, number of landings and number of hits are those of the caption."""

    name = "ball/caption"
    values = (
        ValueSpec("ball/caption_colour", "higher"),
        ValueSpec("ball/caption_pitch", "higher"),
        ValueSpec("ball/caption_landings", "higher"),
        ValueSpec("ball/caption_hits", "higher"),
    )
    extractor: ClassVar[type[Extractor]] = BallTold

    def applies(self, caption: str) -> Sequence[bool]:
        told = Told.of(caption)
        return (told.colour >= 0, told.pitch >= 0, told.count >= 0, told.count >= 0)

    def measure(self, features: Features, reference: Features | None = None) -> list[float]:
        colour, pitch, count = features["told"].tolist()
        found = (
            int(features["colour"]),
            int(features["pitch"]),
            len(features["landings"]),
            len(features["onsets"]),
        )
        return [float(own == says) for own, says in zip(found, (colour, pitch, count, count), strict=True)]


def _place(words: Sequence[str], word: str | None) -> int:
    return words.index(word) if word in words else -1
