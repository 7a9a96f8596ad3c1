"""Every sync metric on every faulty set: one scored run a set, kept on disk, so that the same command goes on.

    <folder>/sets/<world>/<fault>_<size>/seed_<n>/results.json, per_clip.jsonl      as `ovi-eval score` writes them

Shapes: N clips, K sizes of a fault with the size 0 first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ovi_eval.clips.clipset import ClipSet
from ovi_eval.clips.items import memory_items
from ovi_eval.clips.writing import resample
from ovi_eval.common.needs import lacking
from ovi_eval.common.provenance import configuration_hash, git_state
from ovi_eval.errors import UserError
from ovi_eval.metrics.base import ItemMetric
from ovi_eval.registry import METRICS, find
from ovi_eval.results.files import RunResults
from ovi_eval.results.reading import read
from ovi_eval.scoring.results_of import Scored, run_results
from ovi_eval.scoring.runner import ScoringOptions, score_items
from ovi_lab.codecs import LatentCodec
from ovi_lab.codecs.pair import default_codec
from ovi_lab.common.progress import progress
from ovi_lab.sync_metrics.faults import FAULTS, PlantedFault, untouched
from ovi_lab.sync_metrics.scenes import Scenes, scenes_of

Array = NDArray[np.float64]

CLEAN = "clean"
SCORING = ScoringOptions(workers=0, resamples=False, alone=True)
ENLARGED, HZ = 4, 24000
"""What published metrics get: the picture so many times larger, since AV-Align's flow has a window of 15 pixels, nearly
as wide as a picture of 16; and sound at this rate, since its onsets lie on steps of 512 samples, 64 ms at 8 kHz.
"""
FIRST_SEED = 1700
"""The world's seed of seed 0: judges are trained on the world's seed 1, and no clip that they know is asked about."""
CODEC_SEED, CODEC_CLIPS = 1, 512
"""The clips that the codec is fitted on: those that models are trained on."""


@dataclass(frozen=True)
class Judge:
    """A sync metric of the study: `name` in its tables, the metric's name in the registry, the keys of its values.

    Several keys are of clips of different captions: a clip has one of them.
    """

    name: str
    metric: str
    keys: tuple[str, ...]

    def lower_is_better(self) -> bool:
        """Which way is worse."""
        (direction,) = {spec.direction for spec in METRICS[self.metric].values if spec.key in self.keys}
        return direction == "lower"


def judges(short: str) -> list[Judge]:
    """Every sync metric for clips of a world (the short name of its metrics), in the order of the tables."""
    own = [
        Judge("sync_c", f"{short}/sync", (f"{short}/sync_c",)),
        Judge("sync_d", f"{short}/sync", (f"{short}/sync_d",)),
        Judge("sync_d0", f"{short}/sync", (f"{short}/sync_d0",)),
        Judge("sync_shift", f"{short}/sync", (f"{short}/sync_shift_ms",)),
        Judge("onset_f1", f"{short}/event_sync", (f"{short}/onset_f1",)),
        Judge("onset_iou", f"{short}/event_sync", (f"{short}/onset_iou",)),
        Judge("onset_offset", f"{short}/event_sync", (f"{short}/onset_offset_ms",)),
        Judge("av_align_javis", "av_align_javis", ("av_align_javis",)),
        Judge("av_align_mova", "av_align_mova", ("av_align_mova",)),
        Judge("agreement", f"{short}/agreement", (f"{short}/agreement_full", f"{short}/agreement_vague")),
    ]
    if short == "mouth":
        own.append(Judge("lip_error", "mouth/lip_errors", ("mouth/lip_error_full", "mouth/lip_error_vague")))
    return [
        *own,
        Judge("syncnet_c", "sync", ("sync_c",)),
        Judge("syncnet_d", "sync", ("sync_d",)),
        Judge("syncnet_offset", "sync", ("sync_offset",)),
        Judge("desync", "desync", ("desync",)),
    ]


def there(short: str) -> tuple[list[Judge], dict[str, str]]:
    """The metrics that can run here, and of the others, by name, what they need."""
    needs = {judge: lacking(METRICS[judge.metric].extractor.needs, judge.metric) for judge in judges(short)}
    return (
        [judge for judge, lacks in needs.items() if not lacks],
        {judge.name: lacks[0] for judge, lacks in needs.items() if lacks},
    )


@dataclass(frozen=True)
class SyncStudy:
    """What is measured: `clips` of each seed and world, by these faults; `codec`: sent through the world's codec."""

    worlds: tuple[str, ...]
    seeds: tuple[int, ...]
    clips: int
    faults: tuple[str, ...]
    codec: bool
    folder: Path

    def faults_of(self, short: str) -> list[PlantedFault]:
        """The faults that a world can have."""
        return [FAULTS[name] for name in self.faults if short in FAULTS[name].worlds]


@dataclass(frozen=True)
class FaultySet:
    """One set of clips to score: of a world and seed, with a fault (None: clean) of a size."""

    world: str
    seed: int
    fault: PlantedFault | None
    size: float

    @property
    def name(self) -> str:
        """The set's name: `late_100`."""
        return CLEAN if self.fault is None else f"{self.fault.name}_{self.size:g}"


@dataclass(frozen=True)
class FaultValues:
    """What a metric says of a world's clips with a fault.

    `values_KN`: of the size 0 and of each of `sizes`, clips of all seeds after one another, NaN where there is none.
    `moved_ms` [K]: how far events are from where they belong on average, NaN where the fault is not one of time.
    """

    world: str
    short: str
    judge: Judge
    fault: PlantedFault
    sizes: tuple[float, ...]
    values_KN: Array
    moved_ms: Array

    @property
    def worse(self) -> Array:
        """The values, turned so that the larger one is the worse one."""
        return self.values_KN if self.judge.lower_is_better() else -self.values_KN


@dataclass(frozen=True)
class Measurements:
    """All that was measured.

    `ids` by world: of each clip its seed and id. `absent` by world and metric: what it needs; `silent` the same
    of those that run and give no value for a clean clip, with the first reason.
    """

    all: list[FaultValues]
    ids: dict[str, list[tuple[int, str]]]
    absent: dict[str, dict[str, str]]
    silent: dict[str, dict[str, str]]

    def of(self, world: str, judge: str | None = None, fault: str | None = None) -> list[FaultValues]:
        """Those of a world, and of a metric or fault."""
        return [
            m
            for m in self.all
            if m.world == world and judge in (None, m.judge.name) and fault in (None, m.fault.name)
        ]


def measure(asked: SyncStudy) -> Measurements:
    """Score every set that is not scored yet, and read all."""
    sets = [
        FaultySet(world, seed, fault, size)
        for world in asked.worlds
        for seed in asked.seeds
        for fault, size in _sizes(asked, scenes_of(world).short)
    ]
    scored: dict[FaultySet, tuple[RunResults, float]] = {}
    scenes = _SceneStore(asked)
    for one in progress(sets, "faulty sets", len(sets)):
        scored[one] = _scored(one, asked, scenes)
    return _gathered(asked, scored)


def _sizes(asked: SyncStudy, short: str) -> Iterator[tuple[PlantedFault | None, float]]:
    yield None, 0.0
    for fault in asked.faults_of(short):
        yield from ((fault, size) for size in fault.sizes)


class _SceneStore:
    """The scenes of the world and seed that was asked for last, and codecs."""

    def __init__(self, asked: SyncStudy) -> None:
        self.asked = asked
        self._last: tuple[tuple[str, int], Scenes] | None = None
        self._codecs: dict[str, LatentCodec] = {}

    def scenes(self, world: str, seed: int) -> Scenes:
        if self._last is None or self._last[0] != (world, seed):
            self._last = ((world, seed), scenes_of(world)(range(self.asked.clips), FIRST_SEED + seed))
        return self._last[1]

    def as_seen(self, clips: ClipSet, world: str) -> tuple[ClipSet, ClipSet]:
        """Through the codec, where that is asked for: for the world's metrics, and as published ones get them."""
        if self.asked.codec:
            codec = self._codecs.setdefault(world, _fitted(world))
            frames, waves = codec.decode(
                *codec.encode(clips.frames_NTHWC, clips.waves_NS), clips.waves_NS.shape[1]
            )
            clips = replace(clips, frames_NTHWC=frames, waves_NS=waves)
        large = clips.frames_NTHWC.repeat_interleave(ENLARGED, 2).repeat_interleave(ENLARGED, 3)
        waves = torch.stack([resample(wave, clips.sample_rate, HZ) for wave in clips.waves_NS])
        return clips, replace(clips, frames_NTHWC=large, waves_NS=waves, sample_rate=HZ)


def _fitted(world: str) -> LatentCodec:
    of = scenes_of(world).world
    clips = of.render(range(CODEC_CLIPS), CODEC_SEED)
    codec = default_codec(of.fps, of.sample_rate, of.partials_hz)
    return codec.fit([(clips.frames_NTHWC, clips.waves_NS)])


def _scored(one: FaultySet, asked: SyncStudy, store: _SceneStore) -> tuple[RunResults, float]:
    """The set's scores, from disk where they are there, and how far its events are moved."""
    names = list(dict.fromkeys(judge.metric for judge in there(scenes_of(one.world).short)[0]))
    metrics = find(names)
    digest = _digest(one, asked, metrics)
    folder = asked.folder / "sets" / one.world / one.name / f"seed_{one.seed}"
    if (folder / "results.json").is_file():
        found = read(folder)
        if found.config_hash == digest:
            return found, _moved_ms(found)
    scenes = store.scenes(one.world, one.seed)
    planted = untouched(scenes) if one.fault is None else one.fault.plant(scenes, one.size)
    of_world = [metric for metric in metrics if metric.name.startswith(f"{scenes.short}/")]
    published = [metric for metric in metrics if metric not in of_world]
    items, enlarged = (memory_items(clips) for clips in store.as_seen(planted.clips, one.world))
    scored = score_items(items, None, of_world, SCORING)
    if published:
        scored = _both(scored, score_items(enlarged, None, published, SCORING))
    moved = float(planted.moved_ms.mean())
    facts: dict[str, Any] = {"git": code(), "world": one.world, "fault": one.name}
    if np.isfinite(moved):
        facts["moved_ms"] = moved
    results = run_results(items, scored, name=one.name, seed=one.seed, config_hash=digest, provenance=facts)
    results.write(folder)
    return results, moved


def _both(a: Scored, b: Scored) -> Scored:
    """What two scorings of the same clips by different metrics found."""
    return replace(
        a,
        values={**a.values, **b.values},
        per_clip=[{**x, **y} for x, y in zip(a.per_clip, b.per_clip, strict=True)],
        failed={**b.failed, **a.failed},
        provenance={**a.provenance, **b.provenance},
        reasons=[{**x, **y} for x, y in zip(a.reasons, b.reasons, strict=True)],
        notes=(*a.notes, *b.notes),
    )


def _moved_ms(results: RunResults) -> float:
    return float(results.provenance.get("moved_ms", np.nan))


def _digest(one: FaultySet, asked: SyncStudy, metrics: Sequence[type[ItemMetric]]) -> str:
    """Of all that a set's scores depend on but the code."""
    options = {
        "world": [one.world, scenes_of(one.world).world.version],
        "clips": [asked.clips, FIRST_SEED + one.seed],
        "fault": [one.name, one.size],
        "codec": [CODEC_CLIPS, CODEC_SEED] if asked.codec else [],
        "published": [ENLARGED, HZ],
        "metrics": {metric.name: metric.version for metric in metrics},
    }
    return configuration_hash(options)[:12]


@cache
def code() -> str:
    """The state of the code, as runs record it."""
    state = git_state(Path(__file__).parent)
    if state is None:
        return "not a git checkout"
    return f"{state['commit'][:12]}{'-dirty' if state['dirty'] else ''}"


def _gathered(asked: SyncStudy, scored: Mapping[FaultySet, tuple[RunResults, float]]) -> Measurements:
    found = Measurements([], {}, {}, {})
    for world in asked.worlds:
        short = scenes_of(world).short
        running, found.absent[world] = there(short)
        clean = [scored[FaultySet(world, seed, None, 0.0)][0] for seed in asked.seeds]
        found.ids[world] = [
            (seed, clip.id) for seed, run in zip(asked.seeds, clean, strict=True) for clip in run.clips
        ]
        found.silent[world] = {}
        for judge in running:
            before_N = np.concatenate([_values(run, judge) for run in clean])
            if np.isnan(before_N).all():
                reasons = (clip.reasons.get(judge.metric, "") for run in clean for clip in run.clips)
                found.silent[world][judge.name] = next(
                    (text for text in reasons if text), "it gives no value"
                )
                continue
            for fault in asked.faults_of(short):
                rows, moved = [before_N], [0.0]
                for size in fault.sizes:
                    runs = [scored[FaultySet(world, seed, fault, size)] for seed in asked.seeds]
                    rows.append(np.concatenate([_values(run, judge) for run, _ in runs]))
                    moved.append(float(np.mean([ms for _, ms in runs])))
                found.all.append(
                    FaultValues(world, short, judge, fault, fault.sizes, np.stack(rows), np.array(moved))
                )
    return found


def _values(run: RunResults, judge: Judge) -> Array:
    """A metric's value of each clip of a run, NaN where it has none."""
    values = []
    for clip in run.clips:
        held = [value for key in judge.keys if (value := clip.values.get(key)) is not None]
        values.append(held[0] if held else np.nan)
    return np.array(values)


def check_faults(names: Sequence[str]) -> tuple[str, ...]:
    """The faults named, each once. Raises UserError for an unknown one."""
    from ovi_eval.common.shown import did_you_mean

    for name in names:
        if name not in FAULTS:
            offer = did_you_mean(name, FAULTS) or f"there are {', '.join(FAULTS)}"
            raise UserError(f"no fault is called {name!r}; {offer}")
    return tuple(dict.fromkeys(names))


def one_thread() -> None:
    """Sets are small: threads of one operation would wait for each other longer than they work."""
    torch.set_num_threads(1)
