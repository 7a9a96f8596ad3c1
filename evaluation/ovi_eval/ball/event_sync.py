"""Do the hits sound when the ball lands? Onset F1, IoU and offset of two lists of events.

Per clip, with a landings seen, b onsets heard and m pairs matched one to one, closest first, within 75 ms:
F1 = 2 m / (a + b) and IoU = m / (a + b - m). The offset is the mean over all a + b events of the time to
the nearest of the other kind, 400 ms at most. Each is the mean over clips.

A clip where the ball is not seen to land and no hit is heard has nothing to be in time and counts as
missing; where only one kind of event is there, F1 and IoU are 0 and the offset is 400 ms.
"""

from __future__ import annotations

from typing import ClassVar

from ovi_eval.ball import detectors
from ovi_eval.ball.extractor import BallEvents
from ovi_eval.errors import UserError
from ovi_eval.metrics.base import Extractor, Features, ItemMean, ValueSpec

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
    extractor: ClassVar[type[Extractor]] = BallEvents
    events: ClassVar[tuple[str, str]] = ("landings", "onsets")
    """The features that hold the events seen, and those heard."""
    nothing: ClassVar[str] = "no landing is seen and no hit is heard"

    def measure(self, features: Features, reference: Features | None = None) -> list[float]:
        seen, heard = (features[name].tolist() for name in self.events)
        total = len(seen) + len(heard)
        if not total:
            raise UserError(self.nothing)
        pairs = detectors.matched(seen, heard, TOLERANCE)
        offsets = detectors.nearest_offsets(seen, heard, CAP)
        return [2 * pairs / total, pairs / (total - pairs), 1000 * sum(offsets) / total]
