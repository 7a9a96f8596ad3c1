"""Which metrics there are. A new one is a file in `metrics/` and a line here.

Metrics of a made-up world carry its name first, so that nobody takes them for the published ones. Published
ones look through weights that their authors give out and are taken only when asked for by name.
"""

import difflib
from collections.abc import Iterable

from .backbones.ball_judges import Judges
from .backbones.published import find_weights
from .errors import EvalError
from .metrics.agreement import Agreement
from .metrics.ball_frechet import BallFrechetAudio, BallFrechetVideo
from .metrics.ball_sync import BallSync
from .metrics.base import ClipMetric, FrechetMetric, OviMetric
from .metrics.dnsmos import DnsmosP808, DnsmosP835
from .metrics.event_sync import EventSync
from .metrics.published_frechet import (
    FadVGGish,
    FdPanns,
    FvdCdFvd,
    FvdPytorchI3D,
    FvdStyleganV,
    FvdVideoGPT,
)

METRICS: dict[str, type[ClipMetric] | type[FrechetMetric]] = {
    metric.name: metric for metric in (EventSync, Agreement, BallFrechetVideo, BallFrechetAudio, BallSync)
}

_PUBLISHED: tuple[type[ClipMetric] | type[FrechetMetric], ...] = (
    *(FadVGGish, FdPanns, FvdStyleganV, FvdVideoGPT, FvdPytorchI3D, FvdCdFvd),
    *(DnsmosP808, DnsmosP835),
)
PUBLISHED: dict[str, type[ClipMetric] | type[FrechetMetric]] = {metric.name: metric for metric in _PUBLISHED}


def find(names: Iterable[str] | None = None) -> list[type[ClipMetric] | type[FrechetMetric]]:
    """Metrics by name, or by the key of one of their values, each once and in the order named; the world's own
    for None.

    Raises EvalError for an unknown name, with the nearest known ones, and for a published metric whose
    weights are not there, with what it needs.
    """
    if names is None:
        return list(METRICS.values())
    metrics = {**METRICS, **PUBLISHED}
    by_key = {spec.key: metric for metric in metrics.values() for spec in metric.values}
    known = {**by_key, **metrics}
    found: list[type[ClipMetric] | type[FrechetMetric]] = []
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
            offer = f"did you mean {', '.join(near)}?" if near else "there are"
            raise EvalError(f"no metric is called {name!r}; {offer} All metrics: {', '.join(metrics)}")
        if (file := known[name].needs_weights) is not None:
            find_weights(file, name)
        if known[name] not in found:
            found.append(known[name])
    return found


def published_among(names: Iterable[str] | None) -> list[str]:
    """Those of the names, of metrics or of values, that belong to published metrics."""
    keys = {spec.key for metric in PUBLISHED.values() for spec in metric.values} | set(PUBLISHED)
    return [name for name in names or () if name in keys]


def build(metric: type[OviMetric], judges: Judges | None = None) -> OviMetric:
    """A metric ready to be updated, looking through `judges` (None: the committed ones) if it needs any.

    Published weights are read from where `find_weights` finds them.
    """
    return metric(judges=judges) if metric.needs_judges else metric()
