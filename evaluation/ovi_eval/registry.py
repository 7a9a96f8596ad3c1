"""Which metrics there are. A new one is a file in `metrics/` and a line here.

Metrics of a made-up world carry its name first, so that nobody takes them for the published ones.
"""

import difflib
from collections.abc import Iterable

from .backbones.ball_judges import Judges
from .errors import EvalError
from .metrics.agreement import Agreement
from .metrics.ball_frechet import BallFrechetAudio, BallFrechetVideo
from .metrics.ball_sync import BallSync
from .metrics.base import ClipMetric, FrechetMetric, OviMetric
from .metrics.event_sync import EventSync

METRICS: dict[str, type[ClipMetric] | type[FrechetMetric]] = {
    metric.name: metric for metric in (EventSync, Agreement, BallFrechetVideo, BallFrechetAudio, BallSync)
}


def find(names: Iterable[str] | None = None) -> list[type[ClipMetric] | type[FrechetMetric]]:
    """Metrics by name, or by the key of one of their values; all of them for None. Each comes once, in the
    order
    named. Raises EvalError for an unknown name, with the nearest known ones.
    """
    if names is None:
        return list(METRICS.values())
    by_key = {spec.key: metric for metric in METRICS.values() for spec in metric.values}
    known = {**by_key, **METRICS}
    found = []
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
            offer = f"did you mean {', '.join(near)}?" if near else "there are"
            raise EvalError(f"no metric is called {name!r}; {offer} All metrics: {', '.join(METRICS)}")
        if known[name] not in found:
            found.append(known[name])
    return found


def build(metric: type[OviMetric], judges: Judges | None = None) -> OviMetric:
    """A metric ready to be updated, looking through `judges` (None: the committed ones) if it needs any."""
    return metric(judges=judges) if metric.needs_judges else metric()
