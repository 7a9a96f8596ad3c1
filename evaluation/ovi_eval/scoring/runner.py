"""Scores clips through extractors: decoded ahead, cached, split over processes, gathered.

A clip that cannot be read or judged is missing from that metric, with the reason; nothing else stops for it, whatever
was raised. Anything but a UserError is a fault of the metric or of a library, and is reported at the end. Of a clip
that is done only its features, which are small, stay in memory.
"""

from __future__ import annotations

import math
import warnings
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import groupby, islice
from typing import Any, TypeVar

import numpy as np
import torch

from ovi_eval.clips.items import FAULT, Item, why_lost
from ovi_eval.common import processes
from ovi_eval.common.processes import CPU
from ovi_eval.common.shown import shown
from ovi_eval.errors import UserError
from ovi_eval.metrics.base import Details, Extractor, Features, ItemMean, ItemMetric, ItemSet, ValueSpec
from ovi_eval.results import copies
from ovi_eval.results.files import MetricValue
from ovi_eval.scoring.feature_cache import FeatureCache, finite
from ovi_eval.scoring.results_of import Progress, Scored, by_reason, faults, lost_references
from ovi_eval.stats import intervals

T = TypeVar("T")
SET_RESAMPLES = 200
NOT_FINITE = "its features are not finite"


@dataclass(frozen=True)
class ScoringOptions:
    """How to score. `cache` None keeps no features; `workers` threads decode ahead (0: none does).

    `resamples` False leaves intervals out; `seed` is that of every resampling. `strict` stops at the first
    clip that a metric cannot score. `comparable` False marks every number, as of a part of the clips. `alone`: this
    process scores all clips, whatever others there are; else each of torchrun's processes takes its share.
    """

    device: torch.device = CPU
    cache: FeatureCache | None = None
    workers: int = 1
    resamples: bool = True
    seed: int = intervals.SEED
    strict: bool = False
    comparable: bool = True
    alone: bool = False


@dataclass
class _Loaded:
    """One clip in progress: for each extractor its features, the input it is to be run on, or why it has none."""

    side: int
    place: int
    item: Item
    features: dict[str, Features] = field(default_factory=dict)
    inputs: dict[str, Any] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)


def score_items(
    items: Sequence[Item],
    reference: Sequence[Item] | None,
    metrics: Sequence[type[ItemMetric]],
    options: ScoringOptions | None = None,
    progress: Progress | None = None,
) -> Scored:
    """Scores clips with the metrics, through one pass over them; see `Scored` for what comes back.

    Under torchrun every process takes its share of the clips, and all get the result. `progress` is called
    after each clip. Raises UserError for no clips, no reference where one is needed, ids of which none is in
    the reference for a metric over pairs, and, with `strict`, the first clip that cannot be scored.
    """
    return _Run(items, reference, metrics, options or ScoringOptions(), progress).score()


class _Run:
    def __init__(
        self,
        items: Sequence[Item],
        reference: Sequence[Item] | None,
        metrics: Sequence[type[ItemMetric]],
        options: ScoringOptions,
        progress: Progress | None,
    ) -> None:
        if not len(items):
            raise UserError("there are no clips to score")
        self.sides: tuple[Sequence[Item], Sequence[Item]] = (items, reference or ())
        self.options, self.progress = options, progress
        self.rank, self.world = (0, 1) if options.alone else (processes.rank(), processes.world())
        self._check(metrics)
        shared = {
            kind: kind(options.device) for kind in dict.fromkeys(metric.extractor for metric in metrics)
        }
        self.extractors = list(shared.values())
        self.extractor_of = {metric.name: shared[metric.extractor] for metric in metrics}
        self.metrics = [metric() for metric in metrics]
        self.reasons: dict[int, dict[str, str]] = {}
        self.partners: dict[tuple[str, str], Features] = {}
        self.left_out = {metric.name: 0 for metric in self.metrics}
        self.contents: tuple[dict[int, str], dict[int, str]] = ({}, {})
        self.why_left_out: dict[str, str] = {}

    def _check(self, metrics: Sequence[type[ItemMetric]]) -> None:
        needing = [metric.name for metric in metrics if metric.compares != "alone"]
        if needing and not len(self.sides[1]):
            raise UserError(f"{', '.join(needing)} compares with real clips; give a reference")
        pairs = [metric.name for metric in metrics if metric.compares == "pairs"]
        if pairs and not {item.id for item in self.sides[0]} & {item.id for item in self.sides[1]}:
            raise UserError(
                f"{pairs[0]} compares clips of the same id, and no clip here has the id of one of the reference; "
                f"the first are {self.sides[0][0].id} and {self.sides[1][0].id}"
            )

    def score(self) -> Scored:
        jobs = list(self._jobs())
        done = 0
        for group in self._groups(jobs):
            for extractor in self._wanted(group[0].side):
                self._run(extractor, group)
            for loaded in group:
                loaded.inputs.clear()
                for metric in self.metrics:
                    self._update(metric, loaded)
                done += 1
                if self.progress:
                    self.progress("clips", done, len(jobs))
        return self._together()

    def _groups(self, jobs: Sequence[tuple[int, int]]) -> Iterator[list[_Loaded]]:
        """The clips that extractors look at together: of one side, and as many as all of them take at once."""
        most = min((extractor.batch for extractor in self.extractors), default=1)
        for _, of_side in groupby(self._loaded(jobs), key=lambda loaded: loaded.side):
            while group := list(islice(of_side, most)):
                yield group

    def _jobs(self) -> Iterator[tuple[int, int]]:
        """(side, place) of this process's clips; a reference clip goes where the scored one of its id goes.

        The reference comes first, as pairs need it.
        """
        place_of = {item.id: place for place, item in enumerate(self.sides[0])}
        used = any(metric.compares != "alone" for metric in self.metrics)
        for place, item in enumerate(self.sides[1] if used else ()):
            if place_of.get(item.id, place) % self.world == self.rank:
                yield 1, place
        for place in range(self.rank, len(self.sides[0]), self.world):
            yield 0, place

    def _wanted(self, side: int) -> list[Extractor]:
        """The extractors that run on the clips of a side."""
        metrics = [metric for metric in self.metrics if side == 0 or metric.compares != "alone"]
        return list(dict.fromkeys(self.extractor_of[metric.name] for metric in metrics))

    def _loaded(self, jobs: Sequence[tuple[int, int]]) -> Iterator[_Loaded]:
        """The clips in order, decoded ahead by threads: one more than there are workers at a time."""
        if self.options.workers < 1:
            yield from (self._load(*job) for job in jobs)
            return
        waiting: deque[Future[_Loaded]] = deque()
        with ThreadPoolExecutor(self.options.workers, thread_name_prefix="decode") as pool:
            try:
                for job in jobs:
                    waiting.append(pool.submit(self._load, *job))
                    if len(waiting) > self.options.workers:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                for future in waiting:
                    future.cancel()

    def _load(self, side: int, place: int) -> _Loaded:
        item = self.sides[side][place]
        loaded = _Loaded(side, place, item)
        for extractor in self._wanted(side):
            key = extractor.key
            try:
                if item.failed:
                    raise UserError(item.failed)
                if self.options.cache and (cached := self.options.cache.get(item, extractor)) is not None:
                    loaded.features[key] = cached
                else:
                    loaded.inputs[key] = extractor.load(item)
            except Exception as error:  # of a library or a metric's own code: one clip never ends a scoring
                loaded.reasons[key] = why_lost(error, item)
        if not item.failed:
            with suppress(UserError):  # an unreadable file, which has its reason already
                self.contents[side][place] = item.content()
        item.release()
        return loaded

    def _run(self, extractor: Extractor, group: Sequence[_Loaded]) -> None:
        """The features of those of the clips that have none yet."""
        key = extractor.key
        waiting = [loaded for loaded in group if key in loaded.inputs]
        if not waiting:
            return
        try:
            with torch.no_grad():
                found = extractor.run_batch([loaded.inputs[key] for loaded in waiting])
        except Exception as error:  # as in _load
            if len(waiting) > 1:  # one clip's fault is no other's
                for loaded in waiting:
                    self._run(extractor, [loaded])
            else:
                waiting[0].reasons[key] = why_lost(error, waiting[0].item)
            return
        for loaded, features in zip(waiting, found, strict=True):
            if not finite(features):
                loaded.reasons[key] = NOT_FINITE
                continue
            loaded.features[key] = {name: tensor.detach().cpu() for name, tensor in features.items()}
            if self.options.cache:
                self.options.cache.put(loaded.item, extractor, loaded.features[key])

    def _update(self, metric: ItemMetric, loaded: _Loaded) -> None:
        reference = loaded.side == 1
        if reference and metric.compares == "alone":
            return
        key = self.extractor_of[metric.name].key
        try:
            if key in loaded.reasons:
                raise UserError(loaded.reasons[key])
            features = loaded.features[key]
            if metric.compares == "pairs" and reference:
                self.partners[key, loaded.item.id] = features
            elif isinstance(metric, ItemSet):
                metric.update(loaded.place, features, reference=reference)
            elif isinstance(metric, ItemMean):
                partner = self.partners.get((key, loaded.item.id)) if metric.compares == "pairs" else None
                if metric.compares == "pairs" and partner is None:
                    raise UserError("the reference has no clip of this id that can be looked at")
                metric.update(loaded.place, features, partner, loaded.item.caption)
        except Exception as error:  # as in _load
            why = why_lost(error, loaded.item)
            if self.options.strict:
                raise UserError(f"{loaded.item.name}: {metric.name}: {why}") from None
            if reference:
                self.left_out[metric.name] += 1
                if why.startswith(FAULT):
                    self.why_left_out.setdefault(metric.name, f", as {loaded.item.id}, which {why}")
            else:
                self.reasons.setdefault(loaded.place, {})[metric.name] = why

    def _together(self) -> Scored:
        """The results of all processes, the same in each."""
        reasons = {place: why for part in self._gathered(self.reasons) for place, why in part.items()}
        left_out, why_left_out = self._gathered(self.left_out), self._gathered(self.why_left_out)
        contents: list[dict[int, str]] = [{}, {}]
        for part in self._gathered(self.contents):
            for known, own in zip(contents, part, strict=True):
                known.update(own)
        items = self.sides[0]
        rows: list[dict[str, float | None]] = [{} for _ in items]
        scores: dict[str, MetricValue] = {}
        for metric in self.metrics:
            metric.agree(max(self._gathered(metric.row_width)))
            if self.world > 1:
                metric.sync()
            lost = lost_references(metric.name, left_out, why_left_out)
            try:
                scores |= self._scores(metric, lost, rows, contents)
            except Exception as error:  # one metric never takes the others' numbers away
                if self.options.strict:
                    raise
                why = f"cannot be computed ({type(error).__name__}: {shown(error)})"
                for spec in metric.values:
                    scores[spec.key] = self._value(metric, spec, None, 0, coverage=0.0, warnings=(why,))
        failed = {place: items[place].failed or by_reason(why) for place, why in sorted(reasons.items())}
        placed = [reasons.get(place, {}) for place in range(len(rows))]
        found = [self._copies(side, contents[side]) for side in (0, 1)]
        notes = (
            *copies.note(found[0], [item.id for item in items]),
            *copies.note(found[1], [item.id for item in self.sides[1]], "reference"),
            *faults(placed, [item.id for item in items]),
        )
        provenance = {key: fact for each in self.extractors for key, fact in each.provenance.items()}
        return Scored(scores, rows, failed, provenance, placed, found[0], notes)

    def _gathered(self, value: T) -> list[T]:
        return [value] if self.options.alone else processes.gathered(value)

    def _copies(self, side: int, contents: Mapping[int, str], reads_caption: bool = False) -> dict[int, int]:
        """Which clips of a side are copies of which; with `reads_caption` only if their captions agree as well."""
        items = self.sides[side]
        found = [contents.get(place) for place in range(len(items))]
        if reads_caption:
            found = [text and f"{text} {item.caption}" for text, item in zip(found, items, strict=True)]
        return copies.first_places(found)

    def _value(
        self, metric: ItemMetric, spec: ValueSpec, value: float | None, n: int, **facts: Any
    ) -> MetricValue:
        extractor = self.extractor_of[metric.name]
        return MetricValue(
            value,
            n,
            spec.direction,
            unit=spec.unit,
            version=metric.version,
            variant=extractor.variant,
            kind=metric.kind,
            weights=dict(extractor.weights),
            preprocessing=extractor.preprocessing,
            comparable=self.options.comparable,
            title=spec.title,
            **facts,
        )

    def _scores(
        self,
        metric: ItemMetric,
        lost: tuple[str, ...],
        rows: list[dict[str, float | None]],
        contents: Sequence[Mapping[int, str]],
    ) -> dict[str, MetricValue]:
        extractor = self.extractor_of[metric.name]
        if isinstance(metric, ItemSet):
            metric.take_as_one(*(self._copies(s, contents[s], extractor.reads_caption) for s in (0, 1)))
        have, columns = metric.have(), metric.per_clip(len(rows))
        details = metric.details(self.options.seed, SET_RESAMPLES if self.options.resamples else 0)
        differing = int(metric.measured()[1].unique().numel()) if isinstance(metric, ItemSet) else 0
        with warnings.catch_warnings():
            # The coverage shows a metric without any value.
            warnings.filterwarnings("ignore", message="The ``compute`` method of metric")
            values = metric.compute()  # last, as it undoes the synchronisation
        for key, column in columns.items():
            for row, value in zip(rows, column.tolist(), strict=True):
                row[key] = value if math.isfinite(value) else None
        found, notes = {}, extractor.notes(self.sides[0])
        captions = [item.caption for item in self.sides[0]]
        should_K = np.sum([metric.applies(caption) for caption in captions], axis=0)
        clips = [contents[0].get(place, place) for place in range(len(rows))]
        for spec, should in zip(metric.values, should_K, strict=True):
            detail = details.get(spec.key, Details())
            interval, distinct = detail.interval, have[spec.key]
            if isinstance(metric, ItemSet):
                distinct = differing
            elif spec.key in columns:
                column_N = columns[spec.key].numpy()
                there = np.flatnonzero(~np.isnan(column_N)).tolist()
                measured = copies.units(
                    [clips[i] for i in there], [captions[i] for i in there], column_N[there].tolist()
                )
                distinct = len(set(measured))
                if interval is None and self.options.resamples:
                    same = measured if distinct < len(there) else None
                    interval = intervals.mean_interval(column_N[there], spec.key, self.options.seed, same)
            cautions = detail.warnings + lost
            value, n = float(values[spec.key]), have[spec.key]
            if n and not math.isfinite(value) and not cautions:
                cautions += (f"{n} {'clip is' if n == 1 else 'clips are'} too few for a value",)
            n = n if math.isfinite(value) else 0
            found[spec.key] = self._value(
                metric,
                spec,
                value if n else None,
                n,
                coverage=n / max(1, int(should)),
                ci95=(interval.low, interval.high) if interval else None,
                dimension=detail.dimension,
                bias=detail.bias,
                warnings=(*cautions, *notes),
                distinct=distinct if n else None,
            )
        return found
