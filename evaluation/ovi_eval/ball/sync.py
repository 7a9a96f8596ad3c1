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

from __future__ import annotations

import torch
from torch import Tensor

from ovi_eval.ball.extractor import JudgedExtractor
from ovi_eval.ball.networks import MAX_SHIFT, WINDOW_FRAMES, WINDOW_TOKENS, same_moment
from ovi_eval.ball.sound_bands import TOKEN_SECONDS
from ovi_eval.clips.clipset import ClipSet
from ovi_eval.clips.items import Item
from ovi_eval.errors import UserError
from ovi_eval.metrics.base import Features, ItemMean, ValueSpec


class ShiftDistances(JudgedExtractor):
    """`distances` [51] float64, as `shift_distances` has them."""

    name = "ball_shifts"

    def load(self, item: Item) -> ClipSet:
        clip = super().load(item)
        tokens = clip.waves_NS.shape[1] / clip.sample_rate / TOKEN_SECONDS
        if clip.frames_NTHWC.shape[1] < WINDOW_FRAMES or tokens < WINDOW_TOKENS:
            raise UserError("the clip is shorter than SyncNet's window")
        return clip

    @torch.no_grad()
    def look(self, clips: ClipSet) -> list[Features]:
        seen_NVE, heard_NAE = self.judges.parts()["sync"](clips)
        return [{"distances": distance_R} for distance_R in shift_distances(seen_NVE, heard_NAE, clips.fps)]


class BallSync(ItemMean):
    """Sync-C, Sync-D, distance at shift 0 and predicted shift (ms, without its sign)."""

    name = "ball/sync"
    values = (
        ValueSpec("ball/sync_c", "higher"),
        ValueSpec("ball/sync_d", "lower"),
        ValueSpec("ball/sync_d0", "lower"),
        ValueSpec("ball/sync_shift_ms", "lower", "ms"),
    )
    extractor = ShiftDistances

    def measure(self, features: Features, reference: Features | None = None) -> list[float]:
        distance_R = features["distances"]
        smallest, best = distance_R.min(dim=0)
        shift_ms = abs(int(best) - MAX_SHIFT) * (1000 * TOKEN_SECONDS)
        return [
            float(distance_R.median() - smallest),
            float(smallest),
            float(distance_R[MAX_SHIFT]),
            shift_ms,
        ]


def shift_distances(seen_NVE: Tensor, heard_NAE: Tensor, fps: float) -> Tensor:
    """Mean distance over windows for each shift from -25 to 25 tokens, [N, 51]; above 0 the sound is late.

    `seen_NVE`, `heard_NAE`: embeddings of the windows of frames and of tokens; what lies outside the sound
    is 0.
    """
    at_VR = same_moment(seen_NVE.shape[1], fps)[:, None] + torch.arange(-MAX_SHIFT, MAX_SHIFT + 1)
    inside_VR = (at_VR >= 0) & (at_VR < heard_NAE.shape[1])
    there_NVRE = heard_NAE[:, at_VR.clamp(0, heard_NAE.shape[1] - 1)] * inside_VR[..., None].to(heard_NAE)
    return (seen_NVE[:, :, None] - there_NVRE).double().norm(dim=-1).mean(dim=1)
