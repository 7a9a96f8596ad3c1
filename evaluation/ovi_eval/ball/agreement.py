"""Does the drum's pitch belong to the ball's colour? The share of clips where sight and sound agree.

The colour comes from the frames and the pitch from the sound, never from the caption. The caption only says
in which of two values a clip counts: with a colour word in it, both modalities could have read the answer
there; without one ("vague"), they agree only if they told each other.
"""

import torch
from torch import Tensor

from ovi_eval.ball import detectors
from ovi_eval.ball.base import ClipMetric
from ovi_eval.clips.clipset import ClipSet
from ovi_eval.metrics.base import ValueSpec


class Agreement(ClipMetric):
    """Share of clips whose colour and pitch agree, for full and for vague captions. Chance is 0.25."""

    name = "ball/agreement"
    version = "1"
    values = (ValueSpec("ball/agreement_full", "higher"), ValueSpec("ball/agreement_vague", "higher"))
    reasons = (*ClipMetric.reasons, "no ball is seen", "no drum is heard")

    def measure(self, clips: ClipSet) -> tuple[Tensor, Tensor]:
        colour_N = detectors.colour(detectors.seen(clips))
        pitch_N = detectors.pitch(detectors.heard(clips))
        agree_N = (colour_N == pitch_N).double()
        unseen, unheard = len(self.reasons) - 2, len(self.reasons) - 1
        why_N = torch.where(colour_N < 0, unseen, torch.where(pitch_N < 0, unheard, 0))
        return agree_N[:, None].expand(-1, 2), why_N

    def applicable(self, clips: ClipSet) -> Tensor:
        vague_N = torch.tensor([is_vague(caption) for caption in clips.captions])
        return torch.stack([~vague_N, vague_N], dim=1)


def is_vague(caption: str) -> bool:
    """Whether a caption names none of the world's colours."""
    return not set(caption.lower().split()) & set(detectors.COLOURS)
