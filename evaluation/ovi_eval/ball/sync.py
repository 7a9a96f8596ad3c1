"""Sync-C, Sync-D and what they cannot tell, through the ball world's SyncNet.

As in Chung and Zisserman (2016): each window of five frames is compared with the sound windows of its own
moment and of moments before and after, here in steps of 25 ms up to 0.625 s. Sound that a shift would need
from before the clip's beginning or after its end counts as an embedding of zeros. Of the mean distance over
windows, shift by shift,

    sync_d is the smallest, sync_c the median less the smallest (the shift with the smallest is the
    predicted one).

Both look for the best shift, so a clip whose sound is merely late keeps them almost whole. Hence also
sync_d0, the mean distance without a shift, and sync_shift_ms, how far off the predicted shift is. Each is
the mean over clips. Embeddings have length 1, so that two of nothing in common are about 1.41 apart.
"""

from typing import Any

import torch
from torch import Tensor

from ovi_eval.ball.base import ClipMetric
from ovi_eval.ball.judges import Judges, load_judges
from ovi_eval.ball.networks import MAX_SHIFT, WINDOW_FRAMES, WINDOW_TOKENS, same_moment
from ovi_eval.ball.sound_bands import TOKEN_SECONDS
from ovi_eval.clips.clipset import ClipSet
from ovi_eval.metrics.base import ValueSpec


class BallSync(ClipMetric):
    """Sync-C, Sync-D, distance at shift 0 and predicted shift (ms, without its sign)."""

    name = "ball/sync"
    version = "1"
    needs_judges = True
    values = (
        ValueSpec("ball/sync_c", "higher"),
        ValueSpec("ball/sync_d", "lower"),
        ValueSpec("ball/sync_d0", "lower"),
        ValueSpec("ball/sync_shift_ms", "lower", "ms"),
    )
    reasons = (*ClipMetric.reasons, "the clip is shorter than SyncNet's window")

    def __init__(self, judges: Judges | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        judges = judges or load_judges()
        self.judge = judges.sync
        self.variant = judges.variant

    @torch.no_grad()
    def measure(self, clips: ClipSet) -> tuple[Tensor, Tensor]:
        tokens = clips.waves_NS.shape[1] / clips.sample_rate / TOKEN_SECONDS
        if clips.frames_NTHWC.shape[1] < WINDOW_FRAMES or tokens < WINDOW_TOKENS:
            too_short = torch.full((len(clips),), len(self.reasons) - 1)
            return torch.full((len(clips), len(self.values)), torch.nan), too_short
        seen_NVE, heard_NAE = self.judge(clips)
        distance_NR = shift_distances(seen_NVE, heard_NAE, clips.fps)
        smallest_N, best_N = distance_NR.min(dim=1)
        confidence_N = distance_NR.median(dim=1).values - smallest_N
        shift_N = (best_N - MAX_SHIFT).abs() * (1000 * TOKEN_SECONDS)
        values_NK = torch.stack([confidence_N, smallest_N, distance_NR[:, MAX_SHIFT], shift_N], dim=1)
        return values_NK, torch.zeros(len(clips), dtype=torch.long)


def shift_distances(seen_NVE: Tensor, heard_NAE: Tensor, fps: float) -> Tensor:
    """Mean distance over windows for each shift from -25 to 25 tokens, [N, 51]; above 0 the sound is late.

    `seen_NVE`, `heard_NAE`: embeddings of the windows of frames and of tokens; what lies outside the sound
    is 0.
    """
    at_VR = same_moment(seen_NVE.shape[1], fps)[:, None] + torch.arange(-MAX_SHIFT, MAX_SHIFT + 1)
    inside_VR = (at_VR >= 0) & (at_VR < heard_NAE.shape[1])
    there_NVRE = heard_NAE[:, at_VR.clamp(0, heard_NAE.shape[1] - 1)] * inside_VR[..., None].to(heard_NAE)
    return (seen_NVE[:, :, None] - there_NVRE).double().norm(dim=-1).mean(dim=1)
