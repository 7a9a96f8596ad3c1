"""Which metrics there are. A new one is a file in `metrics/` and a line here.

Metrics of a made-up world carry its name first, so that nobody takes them for the published ones, and look
at clips 16 pixels wide. Published ones look at clips as they are, mostly through weights that their authors
give out. Names of what the field calls a metric, where there are several of it, stand for its usual variant.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

from ovi_eval.ball.agreement import Agreement
from ovi_eval.ball.base import ClipMetric, FrechetMetric
from ovi_eval.ball.event_sync import EventSync
from ovi_eval.ball.frechet import BallFrechetAudio, BallFrechetVideo
from ovi_eval.ball.judges import Judges
from ovi_eval.ball.sync import BallSync
from ovi_eval.common.needs import lacking
from ovi_eval.errors import UserError
from ovi_eval.metrics import plugins
from ovi_eval.metrics.av_align import AvAlignJavis, AvAlignMova
from ovi_eval.metrics.base import ItemMetric, OviMetric
from ovi_eval.metrics.clap import Clap630kScore, ClapAllCropsScore, ClapFloatScore, ClapScore
from ovi_eval.metrics.classifier import IsPanns, KlPanns, KlSigmoidPanns
from ovi_eval.metrics.dnsmos import DnsmosP808, DnsmosP835
from ovi_eval.metrics.fad_infinity import FadInfVGGish
from ovi_eval.metrics.frechet import FadVGGish, FdPanns, FvdCdFvd, FvdPytorchI3D, FvdStyleganV, FvdVideoGPT
from ovi_eval.metrics.kid import KidPanns
from ovi_eval.metrics.lip_sync import DETECTORS, LipSync, LipSyncAllTracks, LipSyncCrops, LipSyncUltraFace
from ovi_eval.metrics.temporal_flickering import TemporalFlickering
from ovi_eval.metrics.transcripts import Cer, CerPooled, Wer, WerPooled

BallMetric = type[ClipMetric] | type[FrechetMetric]

BALL: dict[str, BallMetric] = {
    metric.name: metric for metric in (EventSync, Agreement, BallFrechetVideo, BallFrechetAudio, BallSync)
}

_PUBLISHED: tuple[type[ItemMetric], ...] = (
    # pictures
    *(FvdStyleganV, FvdVideoGPT, FvdPytorchI3D, FvdCdFvd, TemporalFlickering),
    # sound
    *(FadVGGish, FadInfVGGish, FdPanns, KidPanns, IsPanns, KlPanns, KlSigmoidPanns),
    *(DnsmosP808, DnsmosP835, Wer, WerPooled, Cer, CerPooled),
    # sound and what was asked for
    *(ClapScore, Clap630kScore, ClapFloatScore, ClapAllCropsScore),
    # sound and pictures
    *(LipSync, LipSyncAllTracks, LipSyncUltraFace, LipSyncCrops, AvAlignJavis, AvAlignMova),
    *plugins.BUILT_IN,
)
PUBLISHED: dict[str, type[ItemMetric]] = {metric.name: metric for metric in _PUBLISHED}

ALIASES: dict[str, tuple[str, ...]] = {
    "ball": tuple(BALL),
    "fvd": ("fvd_stylegan_v",),
    "fad": ("fad_vggish",),
    "fd_vgg": ("fad_vggish",),
    "fad_inf": ("fad_inf_vggish",),
    "fd": ("fd_panns",),
    "kid": ("kid_panns",),
    "is": ("is_panns",),
    "kl": ("kl_panns",),
    "lse": ("sync",),
    "dnsmos": ("dnsmos_p808", "dnsmos_p835"),
    "error_rates": ("wer", "wer_pooled", "cer", "cer_pooled"),
    "imagebind": ("imagebind_score",),
    "audiobox": ("audiobox_aesthetics",),
    "av_align": ("av_align_javis", "av_align_mova"),
}
"""What the field calls a metric, and the names that stand for it here."""

SYNC_BY_DETECTOR = {name: metric.name for name, metric in DETECTORS.items()}
"""The metric that stands for `sync` with each face detector."""

_taken = {spec.key for metric in (*BALL.values(), *_PUBLISHED) for spec in metric.values}
_theirs, FAULTS = plugins.from_packages(_taken | {*BALL, *PUBLISHED, *ALIASES})
PUBLISHED |= _theirs
"""Those that other packages bring come last. FAULTS says of their entry points that give none, by name, why."""

BALL_KEYS = {spec.key: metric for metric in BALL.values() for spec in metric.values} | BALL
PUBLISHED_KEYS = {spec.key: metric for metric in PUBLISHED.values() for spec in metric.values} | PUBLISHED
"""Metrics by their names and by the keys of their values."""


def find(names: Iterable[str]) -> tuple[list[BallMetric], list[type[ItemMetric]]]:
    """The ball world's metrics and the published ones among the names, each once and in the order named.

    A name is that of a metric, of one of its values, or one of ALIASES. Raises UserError for an unknown name,
    with the nearest known ones, and for a metric that lacks something here, with what it needs.
    """
    ball: list[BallMetric] = []
    published: list[type[ItemMetric]] = []
    known = {**BALL_KEYS, **PUBLISHED_KEYS}
    for name in _spelled_out(names):
        if name in BALL_KEYS:
            if BALL_KEYS[name] not in ball:
                ball.append(BALL_KEYS[name])
        elif name in PUBLISHED_KEYS:
            metric = PUBLISHED_KEYS[name]
            if lacks := lacking(metric.extractor.needs, metric.name):
                more = f" ({len(lacks) - 1} more: ovi-eval metrics lists them)" if len(lacks) > 1 else ""
                raise UserError(lacks[0] + more)
            if metric not in published:
                published.append(metric)
        else:
            if name in FAULTS:
                raise UserError(FAULTS[name])
            near = difflib.get_close_matches(name, [*known, *ALIASES], n=3, cutoff=0.4)
            offer = f"did you mean {', '.join(near)}?" if near else "there are"
            listed = ", ".join([*PUBLISHED, *BALL])
            raise UserError(f"no metric is called {name!r}; {offer} All metrics: {listed}")
    return ball, published


def find_ball(names: Iterable[str] | None = None) -> list[BallMetric]:
    """The ball world's metrics by name or by the key of one of their values; all of them for None.

    Raises UserError for an unknown name, and for a published one.
    """
    if names is None:
        return list(BALL.values())
    ball, published = find(names)
    if published:
        raise UserError(
            f"{published[0].name} looks at clips as they are, here only the ball world's are taken"
        )
    return ball


def to_be_had(reference: bool) -> tuple[list[type[ItemMetric]], dict[str, str]]:
    """The published metrics whose needs are met here, and why each of the others is not among them."""
    there: list[type[ItemMetric]] = []
    absent: dict[str, str] = {}
    for name, metric in PUBLISHED.items():
        lacks = lacking(metric.extractor.needs, name)
        if lacks:
            absent[name] = lacks[0]
        elif metric.compares != "alone" and not reference:
            absent[name] = f"{name} compares with real clips; give a reference"
        else:
            there.append(metric)
    return there, absent


def build(metric: type[OviMetric], judges: Judges | None = None, **kwargs: Any) -> OviMetric:
    """A metric of the ball world ready to be updated; `kwargs` as torchmetrics has them.

    One that needs judges looks through `judges` (None: the committed ones).
    """
    return metric(judges=judges, **kwargs) if metric.needs_judges else metric(**kwargs)


def _spelled_out(names: Iterable[str]) -> list[str]:
    """The names with each short one replaced by what it stands for; a metric's own name comes first."""
    known = {**BALL_KEYS, **PUBLISHED_KEYS}
    return [full for name in names for full in ((name,) if name in known else ALIASES.get(name, (name,)))]
