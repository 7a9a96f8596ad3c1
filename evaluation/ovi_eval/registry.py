"""Which metrics there are. A new one is a file in `metrics/` and a line here.

Metrics of a generated world begin with its name, so that none is mistaken for a published one; they scale clips to
16x16.
Published ones look at clips as they are, mostly through published weights. Names of what the field
calls a metric, where there are several of it, stand for its usual variant.
"""

from __future__ import annotations

from collections.abc import Iterable

from ovi_eval.ball.agreement import Agreement
from ovi_eval.ball.caption import CaptionFollowed
from ovi_eval.ball.event_sync import EventSync
from ovi_eval.ball.frechet import BallFrechetAudio, BallFrechetVideo
from ovi_eval.ball.real_events import RealEvents
from ovi_eval.ball.sync import BallSync
from ovi_eval.common.needs import lacking
from ovi_eval.common.shown import did_you_mean
from ovi_eval.errors import UserError
from ovi_eval.metrics import plugins
from ovi_eval.metrics.av_align import AV_ALIGN
from ovi_eval.metrics.base import ItemMetric
from ovi_eval.metrics.clap import CLAP
from ovi_eval.metrics.classifier import IsPanns, KlPanns, KlSigmoidPanns
from ovi_eval.metrics.dnsmos import DNSMOS
from ovi_eval.metrics.fad_infinity import FadInfVGGish
from ovi_eval.metrics.frechet import FRECHET
from ovi_eval.metrics.kid import KidPanns
from ovi_eval.metrics.lip_sync import SYNC
from ovi_eval.metrics.speaker_ge2e import SpeakerSimilarityGE2E
from ovi_eval.metrics.temporal_flickering import TemporalFlickering
from ovi_eval.metrics.transcripts import RATES
from ovi_eval.mouth.error_rates import LipErrors, SyllableErrors
from ovi_eval.mouth.event_sync import MouthAgreement, MouthEventSync, MouthRealEvents
from ovi_eval.mouth.sync import MouthSync

_OWN: tuple[type[ItemMetric], ...] = (
    # pictures and sound against a reference
    *FRECHET.values(),
    # pictures
    TemporalFlickering,
    # sound
    *(FadInfVGGish, KidPanns, IsPanns, KlPanns, KlSigmoidPanns),
    *DNSMOS.values(),
    SpeakerSimilarityGE2E,
    *RATES.values(),
    # sound and captions
    *CLAP.values(),
    # sound and pictures
    *SYNC.values(),
    *AV_ALIGN.values(),
    *plugins.BUILT_IN,
    # the ball world
    *(EventSync, Agreement, CaptionFollowed, BallFrechetVideo, BallFrechetAudio, BallSync, RealEvents),
    # the speaking mouth
    *(MouthEventSync, MouthAgreement, SyllableErrors, LipErrors, MouthSync, MouthRealEvents),
)
METRICS: dict[str, type[ItemMetric]] = {metric.name: metric for metric in _OWN}

ALIASES: dict[str, tuple[str, ...]] = {
    **{
        world: tuple(n for n, metric in METRICS.items() if n.startswith(f"{world}/") and metric.by_default)
        for world in ("ball", "mouth")
    },
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

WORLDS = {"bouncing_ball": "ball", "speaking_mouth": "mouth"}
"""The short name of all metrics of a generated world, by the world's name."""


def metrics_of_world(world: str | None) -> str:
    """The short name of a world's metrics; a world that has none of its own is scored by the ball world's."""
    return WORLDS.get(world or "", "ball")


SYNC_BY_DETECTOR = {"s3fd": "sync", "ultraface": "sync_ultraface"}
"""The metric that stands for `sync` with each face detector."""

_taken = {spec.key for metric in _OWN for spec in metric.values} | {*METRICS, *ALIASES}
_theirs, FAULTS = plugins.from_packages(_taken)
METRICS |= _theirs
"""By name; those of other packages come last. FAULTS says of their entry points that give none, by name, why."""

KEYS = {spec.key: metric for metric in METRICS.values() for spec in metric.values} | METRICS
"""Metrics by their names and by the keys of their values."""


def find(names: Iterable[str]) -> list[type[ItemMetric]]:
    """The metrics among the names, each once and in the order named.

    A name is that of a metric, of one of its values, or one of ALIASES. Raises UserError for an unknown name,
    with the nearest known ones, and for a metric that lacks something here, with what it needs.
    """
    found: dict[str, type[ItemMetric]] = {}
    for name in _spelled_out(names):
        if name not in KEYS:
            if name in FAULTS:
                raise UserError(FAULTS[name])
            offer = f"{did_you_mean(name, [*KEYS, *ALIASES])} All metrics:".lstrip()
            raise UserError(f"no metric is called {name!r}; {offer} {', '.join(METRICS)}")
        metric = KEYS[name]
        if lacks := lacking(metric.extractor.needs, metric.name):
            more = f" ({len(lacks) - 1} more: ovi-eval metrics lists them)" if len(lacks) > 1 else ""
            raise UserError(lacks[0] + more)
        found[metric.name] = metric
    return list(found.values())


def available(reference: bool, world: str | None = None) -> tuple[list[type[ItemMetric]], dict[str, str]]:
    """The metrics to score where none is named, those of a world (its short name) or, without one, the published.

    Also, by name, why others are left out.
    """
    of_worlds = {name for short in WORLDS.values() for name in ALIASES[short]}
    wanted = ALIASES[world] if world else [name for name in METRICS if name not in of_worlds]
    there: list[type[ItemMetric]] = []
    absent: dict[str, str] = {}
    for name, metric in METRICS.items():
        if name not in wanted or not metric.by_default:
            continue
        if lacks := lacking(metric.extractor.needs, name):
            absent[name] = lacks[0]
        elif metric.compares != "alone" and not reference:
            absent[name] = f"{name} compares with real clips; give a reference"
        else:
            there.append(metric)
    return there, absent


def _spelled_out(names: Iterable[str]) -> list[str]:
    """The names with each short one replaced by what it stands for; a metric's own name comes first."""
    return [full for name in names for full in ((name,) if name in KEYS else ALIASES.get(name, (name,)))]
