"""Do the hits sound when the ball lands? Onset F1, IoU and offset of two lists of events.

Per clip, with a landings seen, b onsets heard and m pairs matched one to one, closest first, within 75 ms:
F1 = 2 m / (a + b) and IoU = m / (a + b - m). The offset is the mean over all a + b events of the time to
the nearest of the other kind, 400 ms at most. Each is the mean over clips.

A clip where the ball is not seen to land and no hit is heard has nothing to be in time and counts as
missing; where only one kind of event is there, F1 and IoU are 0 and the offset is 400 ms.
"""

from __future__ import annotations

from ovi_eval.ball import detectors
from ovi_eval.ball.extractor import BallEvents
from ovi_eval.errors import UserError
from ovi_eval.metrics.base import Features, ItemMean, ValueSpec

TOLERANCE = 0.075
CAP = 0.400


class EventSync(ItemMean):
    """Onset F1, IoU and offset (ms) between what is seen and what is heard."""

    name = "ball/event_sync"
    values = (
        ValueSpec("ball/onset_f1", "higher"),
        ValueSpec("ball/onset_iou", "higher"),
        ValueSpec("ball/onset_offset_ms", "lower", "ms"),
    )
    extractor = BallEvents

    def measure(self, features: Features, reference: Features | None = None) -> list[float]:
        landings, onsets = features["landings"].tolist(), features["onsets"].tolist()
        total = len(landings) + len(onsets)
        if not total:
            raise UserError("no landing is seen and no hit is heard")
        pairs = detectors.matched(landings, onsets, TOLERANCE)
        offsets = detectors.nearest_offsets(landings, onsets, CAP)
        return [2 * pairs / total, pairs / (total - pairs), 1000 * sum(offsets) / total]
