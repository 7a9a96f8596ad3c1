"""Does the drum's pitch belong to the ball's colour? The share of clips where sight and sound agree.

The colour comes from the frames and the pitch from the sound, never from the caption. The caption only says
in which of two values a clip counts: with a colour word in it, both modalities could have read the answer
there; without one ("vague"), they agree only if one was generated to fit the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from ovi_eval.ball.detectors import COLOURS
from ovi_eval.ball.extractor import BallEvents
from ovi_eval.errors import UserError
from ovi_eval.metrics.base import Extractor, Features, ItemMean, ValueSpec


class Agreement(ItemMean):
    """Share of clips whose colour and pitch agree, for full and for vague captions. Chance is 0.25."""

    name = "ball/agreement"
    values = (ValueSpec("ball/agreement_full", "higher"), ValueSpec("ball/agreement_vague", "higher"))
    extractor: ClassVar[type[Extractor]] = BallEvents
    unseen: ClassVar[str] = "no ball is seen"
    unheard: ClassVar[str] = "no drum is heard"

    def applies(self, caption: str) -> Sequence[bool]:
        return (not is_vague(caption), is_vague(caption))

    def measure(self, features: Features, reference: Features | None = None) -> list[float]:
        colour, pitch = int(features["colour"]), int(features["pitch"])
        if colour < 0:
            raise UserError(self.unseen)
        if pitch < 0:
            raise UserError(self.unheard)
        return [float(colour == pitch)] * 2


def is_vague(caption: str) -> bool:
    """Whether a caption names none of the world's colours."""
    return not set(caption.lower().split()) & set(COLOURS)
