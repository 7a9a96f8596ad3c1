"""Onset F1 of parts of a clip: of what was continued, of each window, at the seams between windows.

Landings and hits of the whole clip are matched as in `event_sync`, so that no pair is cut by a border. Of the events in
a part, F1 is the share that have a partner: over a whole clip that is 2 m / (a + b) again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ovi_eval.ball import detectors
from ovi_eval.ball.event_sync import TOLERANCE
from ovi_eval.ball.extractor import BallEvents
from ovi_eval.metrics.base import Features, ItemMean, ValueSpec


@dataclass(frozen=True)
class Part:
    """Spans of a clip, in seconds, each with its begin and without its end."""

    name: str
    """Of one word: the value is called `ball/onset_f1_NAME`."""
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


def sync_in_parts(parts: Sequence[Part]) -> type[ItemMean]:
    """A metric with the onset F1 of each part. A clip without any event in a part has no value there."""
    kept = tuple(parts)

    class SyncInParts(ItemMean):
        """Onset F1 of parts of a clip."""

        name = "ball/event_sync_in_parts"
        version = "1 " + "; ".join(
            ", ".join(f"{begin:.3f}-{end:.3f} s" for begin, end in part.spans) for part in kept
        )
        values = tuple(ValueSpec(f"ball/onset_f1_{part.name}", "higher", title=part.title) for part in kept)
        extractor = BallEvents

        def measure(self, features: Features, reference: Features | None = None) -> list[float]:
            landings, hits = features["landings"].tolist(), features["onsets"].tolist()
            pairs = detectors.matched_pairs(landings, hits, TOLERANCE)
            paired = [landings[i] for i, _ in pairs] + [hits[j] for _, j in pairs]
            return [_share(part, paired, [*landings, *hits]) for part in kept]

    return SyncInParts


def _share(part: Part, paired: Sequence[float], events: Sequence[float]) -> float:
    inside = sum(map(part.holds, events))
    return sum(map(part.holds, paired)) / inside if inside else math.nan
