"""Fréchet distances between generated and real clips of the ball world, in features of its small judges.

The features have mean 0 and variance 1 on real clips. Compared are two sets, so a value holds for its
number of clips: fewer clips, larger distances. State the number, and compare arms over as many.
"""

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from ovi_eval.ball.base import FrechetMetric
from ovi_eval.ball.judges import Judges, load_judges
from ovi_eval.clips.clipset import ClipSet
from ovi_eval.metrics.base import ValueSpec


class _BallFrechet(FrechetMetric):
    version = "1"
    needs_judges = True
    modality: ClassVar[Literal["video", "audio"]]

    def __init__(self, judges: Judges | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        judges = judges or load_judges()
        self.judge = judges.video if self.modality == "video" else judges.audio
        self.variant = judges.variant

    @torch.no_grad()
    def features(self, clips: ClipSet) -> Tensor:
        return self.judge.features(clips)


class BallFrechetVideo(_BallFrechet):
    """Fréchet distance of the picture."""

    name = "ball/frechet_video"
    modality = "video"
    values = (ValueSpec("ball/frechet_video", "lower"),)


class BallFrechetAudio(_BallFrechet):
    """Fréchet distance of the sound."""

    name = "ball/frechet_audio"
    modality = "audio"
    values = (ValueSpec("ball/frechet_audio", "lower"),)
