"""Real clips of the ball world, and clips broken in known ways, for the tests of its metrics."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import torch

from ovi_eval.clips.clipset import ClipSet
from ovi_eval.clips.items import memory_items
from ovi_eval.registry import available, find
from ovi_eval.scoring.results_of import Scored
from ovi_eval.scoring.runner import ScoringOptions, score_items
from ovi_lab.data.worlds.bouncing_ball import BouncingBall


@cache
def real_clips(count: int = 96, seed: int = 7) -> ClipSet:
    return BouncingBall().render(range(count), seed)


def broken_clips() -> ClipSet:
    """Eight clips: 0 sound not finite, 1 silent, 2 marked as failed, 3 black, 4 black and only humming; rest
    sound.
    """
    real = real_clips()[:8]
    waves, frames = real.waves_NS.clone(), real.frames_NTHWC.clone()
    waves[0, 100] = float("nan")
    waves[1] = 0
    frames[3:5] = 0
    waves[4] = 0.04 * torch.sin(torch.arange(waves.shape[1]) * 2 * torch.pi * 110 / real.sample_rate)
    meta = [dict(row) for row in real.meta]
    meta[2]["failed"] = "the solver diverged"
    return replace(real, frames_NTHWC=frames, waves_NS=waves, meta=meta)


def score(clips: ClipSet, reference: ClipSet | None = None, names: Sequence[str] = ()) -> Scored:
    """The clips scored with metrics by name, without names with all of the ball world's."""
    metrics = find(names) if names else available(reference is not None, "ball")[0]
    real = None if reference is None else memory_items(reference)
    return score_items(memory_items(clips), real, metrics, ScoringOptions(resamples=False))
