"""Onset F1 of parts of a clip: of what was continued, of each window, at the seams between windows.

Landings and hits of the whole clip are matched as in `event_sync`, so that no pair is cut by a border. Of the events in
a part, F1 is the share that have a partner: over a whole clip that is 2 m / (a + b) again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ovi_eval.ball import detectors
from ovi_eval.ball.event_sync import TOLERANCE, EventSync
from ovi_eval.metrics.base import Features, ItemMean, ValueSpec


@dataclass(frozen=True)
class Part:
    """Spans of a clip, in seconds, each with its begin and without its end."""

    name: str
    """Of one word: the value of the ball world is called `ball/onset_f1_NAME`."""
    spans: Sequence[tuple[float, float]]

    def holds(self, time: float) -> bool:
        """Whether an event at this time counts."""
        return any(begin <= time < end for begin, end in self.spans)

    @property
    def title(self) -> str:
        """In words; of a single span with its times."""
        times = "".join(f" ({begin:.2f} to {end:.2f} s)" for begin, end in self.spans) * (
            len(self.spans) == 1
        )
        return f"Onset F1 within 75 ms, {self.name.replace('_', ' ')}{times}"


def sync_in_parts(parts: Sequence[Part], whole: type[EventSync] = EventSync) -> type[ItemMean]:
    """A metric with the onset F1 of each part. A clip without any event in a part has no value there.

    `whole`: the world's metric of whole clips, whose events are taken.
    """
    kept, world = tuple(parts), whole.name.partition("/")[0]

    class SyncInParts(ItemMean):
        """Onset F1 of parts of a clip."""

        name = f"{world}/event_sync_in_parts"
        version = "1 " + "; ".join(
            ", ".join(f"{begin:.3f}-{end:.3f} s" for begin, end in part.spans) for part in kept
        )
        values = tuple(
            ValueSpec(f"{world}/onset_f1_{part.name}", "higher", title=part.title) for part in kept
        )
        extractor = whole.extractor

        def measure(self, features: Features, reference: Features | None = None) -> list[float]:
            seen, heard = (features[name].tolist() for name in whole.events)
            pairs = detectors.matched_pairs(seen, heard, TOLERANCE)
            paired = [seen[i] for i, _ in pairs] + [heard[j] for _, j in pairs]
            return [_share(part, paired, [*seen, *heard]) for part in kept]

    return SyncInParts


def _share(part: Part, paired: Sequence[float], events: Sequence[float]) -> float:
    inside = sum(map(part.holds, events))
    return sum(map(part.holds, paired)) / inside if inside else math.nan
