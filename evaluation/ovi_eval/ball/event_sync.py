"""Do the hits sound when the ball lands? Onset F1, IoU and offset of two lists of events.

Per clip, with a landings seen, b onsets heard and m pairs matched one to one, closest first, within 75 ms:
F1 = 2 m / (a + b) and IoU = m / (a + b - m). The offset is the mean over all a + b events of the time to
the nearest of the other kind, 400 ms at most. Each is the mean over clips.

A clip where the ball is not seen to land and no hit is heard has nothing to be in time and counts as
missing; where only one kind of event is there, F1 and IoU are 0 and the offset is 400 ms.
"""

import torch
from torch import Tensor

from ovi_eval.ball import detectors
from ovi_eval.ball.base import ClipMetric
from ovi_eval.clips.clipset import ClipSet
from ovi_eval.metrics.base import ValueSpec

TOLERANCE = 0.075
CAP = 0.400


class EventSync(ClipMetric):
    """Onset F1, IoU and offset (ms) between what is seen and what is heard."""

    name = "ball/event_sync"
    version = "1"
    values = (
        ValueSpec("ball/onset_f1", "higher"),
        ValueSpec("ball/onset_iou", "higher"),
        ValueSpec("ball/onset_offset_ms", "lower", "ms"),
    )
    reasons = (*ClipMetric.reasons, "no landing is seen and no hit is heard")

    def measure(self, clips: ClipSet) -> tuple[Tensor, Tensor]:
        landings = detectors.landings(detectors.seen(clips), clips.fps)
        onsets = detectors.onsets(detectors.heard(clips))
        rows = [_compare(a, b) for a, b in zip(landings, onsets, strict=True)]
        empty = torch.tensor([not a and not b for a, b in zip(landings, onsets, strict=True)])
        nothing_there = len(self.reasons) - 1
        return torch.tensor(rows, dtype=torch.float64), torch.where(empty, nothing_there, 0)


def _compare(landings: list[float], onsets: list[float]) -> tuple[float, float, float]:
    total = len(landings) + len(onsets)
    if not total:
        return (float("nan"),) * 3
    pairs = detectors.matched(landings, onsets, TOLERANCE)
    offsets = detectors.nearest_offsets(landings, onsets, CAP)
    return 2 * pairs / total, pairs / (total - pairs), 1000 * sum(offsets) / total
