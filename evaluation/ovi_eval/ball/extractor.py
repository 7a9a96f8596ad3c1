"""Clips of any size as the metrics of generated worlds see them, and the two kinds of extractors that look at them.

Frames are brought to 16x16 by averaging areas and sound to 8 kHz. All networks here are small and run on the CPU,
several clips at a time.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from ovi_eval.ball import detectors
from ovi_eval.ball.judges import Judges, JudgeSet, load_judges
from ovi_eval.clips.clip import aligned
from ovi_eval.clips.clipset import SILENT, ClipSet
from ovi_eval.clips.items import Item
from ovi_eval.common.processes import CPU
from ovi_eval.errors import UserError
from ovi_eval.metrics.base import Extractor, Features


class BallExtractor(Extractor):
    """Features of clips of 16x16 and 8 kHz. Subclasses give `look`."""

    preprocessing = "16x16 by averaging areas, 8 kHz by FFmpeg"
    batch: ClassVar[int] = 32

    @abstractmethod
    def look(self, clips: ClipSet) -> list[Features]:
        """The features of each clip. All have one length and rate."""

    def load(self, item: Item) -> ClipSet:
        return item.once("ball", lambda: small_clip(item))

    def run(self, loaded: ClipSet) -> Features:
        return self.look(loaded)[0]

    def run_batch(self, loaded: Sequence[ClipSet]) -> list[Features]:
        """As `run`; clips that differ in length or rate are looked at one by one."""
        if len({(clip.frames_NTHWC.shape, clip.waves_NS.shape, clip.fps) for clip in loaded}) > 1:
            return super().run_batch(loaded)
        return self.look(
            ClipSet(
                ids=[clip.ids[0] for clip in loaded],
                captions=[clip.captions[0] for clip in loaded],
                frames_NTHWC=torch.cat([clip.frames_NTHWC for clip in loaded]),
                fps=loaded[0].fps,
                waves_NS=torch.cat([clip.waves_NS for clip in loaded]),
                sample_rate=loaded[0].sample_rate,
            )
        )


class BallEvents(BallExtractor):
    """What the detectors find: `landings` and `onsets`, float64 seconds; `colour` and `pitch`, -1 where none is."""

    name = "ball_events"

    def look(self, clips: ClipSet) -> list[Features]:
        frames_NTHWC, bands_NLK = detectors.seen(clips), detectors.heard(clips)
        landings, onsets = detectors.landings(frames_NTHWC, clips.fps), detectors.onsets(bands_NLK)
        colour_N, pitch_N = detectors.colour(frames_NTHWC), detectors.pitch(bands_NLK)
        return [
            {
                "landings": torch.tensor(landings[i], dtype=torch.float64),
                "onsets": torch.tensor(onsets[i], dtype=torch.float64),
                "colour": colour_N[i],
                "pitch": pitch_N[i],
            }
            for i in range(len(clips))
        ]


class JudgedExtractor(BallExtractor):
    """An extractor that looks through `judges` (None: the committed ones of `kind`), which its variant names."""

    kind: ClassVar[type[JudgeSet]] = Judges
    judges: JudgeSet

    def __init__(self, device: torch.device = CPU, judges: JudgeSet | None = None) -> None:
        super().__init__(CPU)
        self.judges = judges or load_judges(kind=self.kind)
        self.variant = self.judges.variant
        self.weights = {self.kind.file.name: self.judges.sha256}
        self.provenance = {"judges": {"sha256": self.judges.sha256, **self.judges.provenance}}


def small_clip(item: Item) -> ClipSet:
    """One clip as a set of one. Raises UserError with the reason where it cannot be read, or lacks picture or sound."""
    clip = aligned(item.name, item.frames_through(_pooled), item.audio(detectors.RATE))
    loudest = float(clip.wave_S.abs().max())  # NaN where a sample is
    if not math.isfinite(loudest):
        raise UserError("its sound is not finite")
    if loudest < SILENT:
        raise UserError("its sound is silence")
    return ClipSet(
        [item.id], [item.caption], clip.frames_THWC[None], clip.fps, clip.wave_S[None], clip.sample_rate
    )


def _pooled(frame_HWC: Tensor) -> Tensor:
    if frame_HWC.shape[:2] == (detectors.SIDE, detectors.SIDE):
        return frame_HWC
    small_CHW = torch.nn.functional.adaptive_avg_pool2d(frame_HWC.permute(2, 0, 1).float(), detectors.SIDE)
    return small_CHW.permute(1, 2, 0).round().byte()
