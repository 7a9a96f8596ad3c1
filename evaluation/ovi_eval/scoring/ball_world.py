"""Scores a set of clips with every metric asked for: values, on how many clips they rest, and clip by clip.

Also the rows that stand beside a measured arm: real clips as a ceiling, real clips whose sound comes late
or belongs to another clip as floors.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from ovi_eval.ball.base import FrechetMetric
from ovi_eval.ball.detectors import landings, seen
from ovi_eval.ball.judges import Judges, load_judges
from ovi_eval.clips.clipset import FAILED, ClipSet
from ovi_eval.clips.items import MemoryItem
from ovi_eval.errors import UserError
from ovi_eval.metrics.base import OviMetric
from ovi_eval.registry import build, find_ball
from ovi_eval.results import copies
from ovi_eval.stats.intervals import mean_interval

BATCH = 32
SHIFTS_MS = (50, 100, 150)

Progress = Callable[[str, int, int], None]
"""Called with what is being scored, the batches done and all batches."""


@dataclass(frozen=True)
class Score:
    """One value over a set of clips. `value` is None where no clip could be scored.

    `n` clips have it; `coverage` is their share of the clips that should. `version` and `variant` part
    numbers that must not be compared. `kind` "mean": of the values clip by clip; "frechet": of two sets. `distinct`
    of the `n` clips differ in content; intervals rest on those.
    """

    value: float | None
    n: int
    coverage: float
    direction: str
    unit: str
    version: str
    variant: str
    kind: str
    ci95: tuple[float, float] | None = None
    dimension: int | None = None
    bias: float | None = None
    weights: Mapping[str, str] = field(default_factory=dict)
    preprocessing: str = ""
    warnings: tuple[str, ...] = ()
    comparable: bool = True
    distinct: int | None = None


@dataclass(frozen=True)
class Scored:
    """What `score_clips` found.

    `values` by key; `per_clip` has for each clip, in their order, its values by key, None where it lacks one;
    `failed` says of clips, by their place, why a metric could not score them, and `reasons` has for each
    clip, in their order, what each such metric says; `provenance` is the judges'. `copies` has for each clip whose
    content an earlier one has, by its place, the first one's place; `notes` are for the reader.
    """

    values: dict[str, Score]
    per_clip: list[dict[str, float | None]]
    failed: dict[int, str]
    provenance: dict[str, Any]
    reasons: list[dict[str, str]] = field(default_factory=list)
    copies: dict[int, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def score_clips(
    clips: ClipSet,
    reference: ClipSet | None = None,
    metrics: Iterable[str] | None = None,
    judges: Judges | None = None,
    progress: Progress | None = None,
    intervals: bool = False,
) -> Scored:
    """Scores `clips` with the metrics of the ball world.

    Args:
        clips: what to score.
        reference: real clips for the Fréchet distances, best others than those scored.
        metrics: names of metrics or of values; None takes all, without a reference all that need none.
        judges: through which networks to look; None takes the committed ones.
        progress: told after every batch.
        intervals: give means their bootstrap intervals over clips, a tenth of a second each.

    Raises UserError for no clips, unknown names, or a Fréchet distance asked for by name without a reference.
    """
    return score_batches(
        _batches(clips),
        len(clips),
        _batches(reference) if reference is not None else None,
        len(reference) if reference is not None else 0,
        metrics=metrics,
        judges=judges,
        progress=progress,
        intervals=intervals,
    )


def score_batches(
    batches: Iterable[ClipSet],
    count: int,
    reference: Iterable[ClipSet] | None = None,
    reference_count: int = 0,
    *,
    metrics: Iterable[str] | None = None,
    judges: Judges | None = None,
    progress: Progress | None = None,
    intervals: bool = False,
) -> Scored:
    """As `score_clips`, of `count` clips that come a few at a time and are looked at once."""
    if not count:
        raise UserError("there are no clips to score")
    wanted = find_ball(metrics)
    lacking = (
        [metric.name for metric in wanted if issubclass(metric, FrechetMetric)] if reference is None else []
    )
    if lacking and metrics is not None:
        raise UserError(f"{', '.join(lacking)} compares with real clips; give a reference")
    wanted = [metric for metric in wanted if metric.name not in lacking]
    if judges is None and any(metric.needs_judges for metric in wanted):
        judges = load_judges()
    # This process has all the clips, whatever others there are.
    built = [build(metric, judges, sync_on_compute=False) for metric in wanted]
    marked: list[str | None] = []
    identities: list[_Identity] = []
    done, total = 0, count + reference_count
    for part in batches:
        marked += [str(row[FAILED]) if row.get(FAILED) else None for row in part.meta]
        identities += [_Identity.of(part, place) for place in range(len(part))]
        for metric in built:
            metric.update(part)
        done += len(part)
        if progress:
            progress("clips", done, total)
    for part in reference or ():
        for metric in built:
            if isinstance(metric, FrechetMetric):
                metric.update(part, reference=True)
        done += len(part)
        if progress:
            progress("reference", done, total)
    return _scored(built, marked, identities, judges, intervals)


@dataclass(frozen=True)
class _Identity:
    """A clip's id, caption and, unless it failed, the sha256 of its content."""

    id: str
    caption: str
    content: str | None

    @classmethod
    def of(cls, clips: ClipSet, place: int) -> "_Identity":
        item = MemoryItem(clips, place)
        return cls(item.id, item.caption, None if item.failed else item.content())


def _scored(
    metrics: list[OviMetric],
    marked: list[str | None],
    identities: list[_Identity],
    judges: Judges | None,
    intervals: bool,
) -> Scored:
    scores: dict[str, Score] = {}
    rows: list[dict[str, float | None]] = [{} for _ in marked]
    reasons: list[dict[str, str]] = [{} for _ in marked]
    failed: dict[int, str] = {}
    for metric in metrics:
        values, coverage, per_clip = metric.compute(), metric.coverage(), metric.per_clip()
        for spec in metric.values:
            n, share = coverage[spec.key]
            interval, distinct = None, None
            if spec.key in per_clip:
                values_N = per_clip[spec.key].tolist()
                there = [place for place, value in enumerate(values_N) if not math.isnan(value)]
                measured = copies.units(
                    [identities[place].content or place for place in there],
                    [identities[place].caption for place in there],
                    [values_N[place] for place in there],
                )
                distinct = len(set(measured))
                if intervals:
                    same = measured if distinct < len(there) else None
                    interval = mean_interval([values_N[place] for place in there], spec.key, units=same)
            scores[spec.key] = Score(
                value=_number(float(values[spec.key])),
                n=n,
                coverage=share,
                direction=spec.direction,
                unit=spec.unit,
                version=metric.version,
                variant=metric.variant,
                kind=metric.kind,
                ci95=(interval.low, interval.high) if interval else None,
                distinct=distinct or None,
            )
            if spec.key in per_clip:
                for row, value in zip(rows, per_clip[spec.key].tolist(), strict=True):
                    row[spec.key] = _number(value)
        for place, why in enumerate(metric.failures()):
            if why:
                reasons[place][metric.name] = marked[place] or why
                failed.setdefault(place, marked[place] or f"{metric.name}: {why}")
    provenance = {"sha256": judges.sha256, **judges.provenance} if judges else {}
    found = copies.first_places([identity.content for identity in identities])
    notes = copies.note(found, [identity.id for identity in identities])
    return Scored(scores, rows, failed, provenance, reasons, found, notes)


def _batches(clips: ClipSet) -> Iterator[ClipSet]:
    for start in range(0, len(clips), BATCH):
        yield clips[start : start + BATCH]


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def make_references(real: ClipSet, seed: int) -> dict[str, ClipSet]:
    """Rows to stand beside the arms: `real`, `real_shifted_50ms` (100, 150) and `real_shuffled`.

    Late sound begins with silence. The other clip has as many landings (by meta["count"], else as seen), so
    that only when they happen differs, and the colour's pitch; `seed` draws which. Raises UserError for a
    single clip.
    """
    rows = {"real": real}
    for ms in SHIFTS_MS:
        rows[f"real_shifted_{ms}ms"] = with_late_sound(real, ms / 1000)
    rows["real_shuffled"] = with_others_sound(real, seed)
    return rows


def with_late_sound(clips: ClipSet, seconds: float) -> ClipSet:
    """The clips with sound that comes late: silence first, the end cut off."""
    late = round(seconds * clips.sample_rate)
    if not 0 <= late < clips.waves_NS.shape[1]:
        length = clips.waves_NS.shape[1] / clips.sample_rate
        raise UserError(f"sound can be late by 0 s to the clips' {length:.3f} s, got {seconds} s")
    waves_NS = torch.nn.functional.pad(clips.waves_NS, (late, 0))[:, : clips.waves_NS.shape[1]]
    return clips.with_waves(waves_NS)


def with_others_sound(clips: ClipSet, seed: int) -> ClipSet:
    """The clips, each with the sound of another that has as many landings.

    A number of landings that only one clip has goes together with the next one. Raises UserError for a
    single clip.
    """
    if len(clips) < 2:
        raise UserError(f"sounds can be exchanged between two clips or more, got {len(clips)}")
    generator = torch.Generator().manual_seed(seed)
    source = torch.arange(len(clips))
    for group in _alike(clips):
        drawn = torch.tensor(group)[torch.randperm(len(group), generator=generator)]
        source[drawn] = drawn.roll(1)
    return clips.with_waves(clips.waves_NS[source])


def _alike(clips: ClipSet) -> list[list[int]]:
    """Groups, of two clips at least, with equally many landings."""
    if all("count" in row for row in clips.meta):
        counts = [int(row["count"]) for row in clips.meta]
    else:
        counts = [len(times) for times in landings(seen(clips), clips.fps)]
    groups: list[list[int]] = []
    for count in sorted(set(counts)):
        members = [i for i, own in enumerate(counts) if own == count]
        if groups and len(groups[-1]) < 2:
            groups[-1] += members
        else:
            groups.append(members)
    if len(groups) > 1 and len(groups[-1]) < 2:
        last = groups.pop()
        groups[-1] += last
    return groups
