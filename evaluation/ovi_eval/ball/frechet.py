"""Fréchet distances between generated and real clips of the ball world, in features of its small judges.

The features have mean 0 and variance 1 on real clips. Compared are two sets, so a value holds for its
number of clips: fewer clips, larger distances. State the number, and compare arms over as many.
"""

from __future__ import annotations

import torch

from ovi_eval.ball.extractor import JudgedExtractor
from ovi_eval.ball.judges import Judges
from ovi_eval.clips.clipset import ClipSet
from ovi_eval.metrics.base import Features
from ovi_eval.metrics.frechet import frechet_metric


class JudgeFeatures(JudgedExtractor):
    """`video` and `audio`, [64] float32 each: what the judges make of a clip's picture and sound."""

    name = "ball_judges"
    judges: Judges

    @torch.no_grad()
    def look(self, clips: ClipSet) -> list[Features]:
        video_ND, audio_ND = self.judges.video.features(clips), self.judges.audio.features(clips)
        return [
            {"video": video_D, "audio": audio_D} for video_D, audio_D in zip(video_ND, audio_ND, strict=True)
        ]


BallFrechetVideo = frechet_metric("ball/frechet_video", JudgeFeatures, "video")
BallFrechetAudio = frechet_metric("ball/frechet_audio", JudgeFeatures, "audio")
