"""Do landings and hits come when those of the real clip do? For clips whose picture or sound was given.

Per clip, with a events found in it, b in the real clip of the same id and m pairs matched one to one, closest first,
within 75 ms: F1 = 2 m / (a + b); of the landings that are seen, and of the hits that are heard. Of a clip with a given
picture the hits say how well the sound was made to it, and the landings that the picture is still the given one.

Where neither clip has an event of a kind, the clip has no value of it.
"""

from __future__ import annotations

import math
from typing import ClassVar

from ovi_eval.ball import detectors
from ovi_eval.ball.event_sync import TOLERANCE, EventSync
from ovi_eval.ball.extractor import BallEvents
from ovi_eval.metrics.base import Extractor, Features, ItemMean, ValueSpec


class RealEvents(ItemMean):
    """F1 of landings, and of hits, against the real clip of the same id."""

    name = "ball/real_events"
    values = (ValueSpec("ball/real_landings_f1", "higher"), ValueSpec("ball/real_hits_f1", "higher"))
    extractor: ClassVar[type[Extractor]] = BallEvents
    events: ClassVar[tuple[str, ...]] = EventSync.events
    compares = "pairs"
    by_default = False  # most clips are made from captions alone, and have no real clip of their own

    def measure(self, features: Features, reference: Features | None = None) -> list[float]:
        assert reference is not None
        found = []
        for kind in self.events:
            own, real = features[kind].tolist(), reference[kind].tolist()
            total = len(own) + len(real)
            found.append(2 * detectors.matched(own, real, TOLERANCE) / total if total else math.nan)
        return found
