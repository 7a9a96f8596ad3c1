"""Checks of every run, written here or read from an untrusted file: values agree with each other."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

from ovi_eval.common.shown import shown
from ovi_eval.errors import UserError
from ovi_eval.results.metric_ranges import range_of

if TYPE_CHECKING:
    from ovi_eval.results.files import MetricValue, RunResults

CLIP_FIELDS = ("id", "caption", "same_as", "failed", "reasons")
"""Keys of a line of per_clip.jsonl that are not metric values."""
MOST_CLIPS, MOST_METRICS, MOST_WEIGHTS = 10_000_000, 500, 100
LONGEST_NAME, LONGEST_TEXT = 500, 20_000
"""Characters of a name (model, metric, clip, version, ...) and of a text (caption, reason, note, ...)."""
LARGEST = 1e15
"""The largest size of a value; beyond, differences of doubles mean nothing."""
_WHOLE = 2**63


def check(run: RunResults, where: str) -> None:
    """Raises UserError that begins with `where` and names the first field that cannot be true."""
    if not run.name.strip():
        raise UserError(f"{where}: field name is empty; name the model or arm")
    _names(where, ("name", run.name), ("benchmark", run.benchmark), ("config_hash", run.config_hash))
    _names(where, ("created", run.created))
    _texts(where, "notes", run.notes)
    _count(where, "n_clips", run.n_clips, 0, MOST_CLIPS)
    if run.seed is not None and abs(run.seed) >= _WHOLE:
        raise UserError(f"{where}: field seed is {shown(run.seed, 40)}, expected a number of 64 bits")
    for name, count in (("metrics", len(run.metrics)), ("losses", len(run.losses))):
        if count > MOST_METRICS:
            raise UserError(f"{where}: holds {count} {name}, expected {MOST_METRICS} or fewer")
    if len(run.clips) > MOST_CLIPS:
        raise UserError(f"{where}: holds {len(run.clips)} clips, expected {MOST_CLIPS} or fewer")
    for key, metric in run.metrics.items():
        _metric(run, key, metric, f"{where}: metrics[{shown(key, 60)}]")
    for key, loss in run.losses.items():
        _names(where, ("losses", key))
        number(loss, f"{where}: losses[{shown(key, 60)}]")
    _clips(run, where)
    _means(run, where)


def number(value: float, where: str, key: str = "") -> float:
    """The value, if it is finite, of a size that means something and one that metric `key` can have; else UserError."""
    if not math.isfinite(value):
        raise UserError(f"{where} is {value}; a value that could not be had is written null, with the reason")
    if abs(value) > LARGEST:
        raise UserError(f"{where} is {value:g}, expected a size of {LARGEST:g} or less")
    low, high = range_of(key)
    if not low <= value <= high:
        bounds = " to ".join(f"{bound:.4g}" for bound in (low, high))
        raise UserError(f"{where} is {value:g}, which this metric cannot be (it lies in {bounds})")
    return value


def _metric(run: RunResults, key: str, metric: MetricValue, at: str) -> None:
    _names(at, ("key", key), ("unit", metric.unit), ("version", metric.version), ("variant", metric.variant))
    _texts(at, "warnings", (*metric.warnings, metric.preprocessing))
    if len(metric.weights) > MOST_WEIGHTS:
        raise UserError(f"{at}.weights holds {len(metric.weights)} files, expected {MOST_WEIGHTS} or fewer")
    _texts(at, "weights", (text for pair in metric.weights.items() for text in pair))
    if metric.value is None and metric.n > 0:
        raise UserError(f"{at}.value is null though n is {shown(metric.n, 40)}")
    if metric.value is not None:
        number(metric.value, f"{at}.value", key)
    for bound in metric.ci95 or ():
        number(bound, f"{at}.ci95")
    if metric.ci95 is not None and metric.ci95[0] > metric.ci95[1]:
        raise UserError(f"{at}.ci95 is {list(metric.ci95)}, expected the lower bound first")
    if metric.bias is not None:
        number(metric.bias, f"{at}.bias")
    _count(at, "n", metric.n, 0, MOST_CLIPS, ".")
    _count(at, "dimension", metric.dimension, 1, _WHOLE, ".")
    _count(at, "distinct", metric.distinct, 0, metric.n, ".")
    if metric.value is not None and metric.n == 0:
        raise UserError(f"{at}.n is 0 though it has a value; say how many clips the value rests on")
    if metric.n > run.n_clips:
        raise UserError(f"{at}.n is {metric.n}, more than the {run.n_clips} clips of the run (n_clips)")
    if not 0.0 <= metric.coverage <= 1.0:
        raise UserError(f"{at}.coverage is {metric.coverage}, expected a share between 0 and 1")
    share = metric.n / run.n_clips if run.n_clips else 0.0
    # A metric that applies to half the clips has all of those; no share of fewer than all is smaller than this.
    if metric.coverage < share - 1e-3:
        raise UserError(
            f"{at}.coverage is {metric.coverage}, but n is {metric.n} of n_clips {run.n_clips}, a share of {share:.3f}"
        )


def _clips(run: RunResults, where: str) -> None:
    for clip in run.clips:
        _names(where, ("id", clip.id), ("same_as", clip.same_as or ""))
        texts = (clip.caption or "", clip.failed or "", *clip.reasons, *clip.reasons.values())
        _texts(f"{where}: clip {shown(clip.id, 60)}", "caption or reason", texts)
        for key, value in clip.values.items():
            if key in CLIP_FIELDS:
                raise UserError(
                    f"{where}: clip {shown(clip.id, 60)}: a metric cannot be named {key!r}; that is a field"
                )
            if value is not None:
                number(value, f"{where}: clip {shown(clip.id, 60)}, {shown(key, 60)}", key)


def _means(run: RunResults, where: str) -> None:
    """A value of kind "mean" is the mean of its clips' values, and n is how many of them there are.

    Where no line has the metric at all, there is nothing to compare it with; the reader reports that.
    """
    if not run.clips:
        return
    for key, metric in run.metrics.items():
        if metric.kind != "mean" or unproven(run, key):
            continue
        values, at = list(run.per_clip(key).values()), f"{where}: metrics[{shown(key, 60)}]"
        if len(values) != metric.n:
            raise UserError(
                f"{at}.n is {metric.n}, but {len(values)} clips have a value in the per-clip file"
            )
        if values and metric.value is not None:
            mean = math.fsum(values) / len(values)
            if not math.isclose(mean, metric.value, rel_tol=1e-3, abs_tol=1e-5):
                raise UserError(
                    f"{at}.value is {metric.value:g}, but the mean of its {len(values)} clips is {mean:g}"
                )


def unproven(run: RunResults, key: str) -> bool:
    """Whether a value of kind "mean" has clips of which none has a value for it."""
    metric = run.metrics[key]
    told = any(key in clip.values for clip in run.clips)
    return metric.kind == "mean" and metric.n > 0 and bool(run.clips) and not told


def _count(where: str, name: str, count: int | None, least: int, most: int, joined: str = ": field ") -> None:
    if count is not None and count < least:
        raise UserError(f"{where}{joined}{name} is {shown(count, 40)}, expected {least} or more")
    if count is not None and count > most:
        raise UserError(f"{where}{joined}{name} is {shown(count, 40)}, expected {most} or fewer")


def _names(where: str, *named: tuple[str, str]) -> None:
    for name, text in named:
        if len(text) > LONGEST_NAME:
            raise UserError(
                f"{where}: {name} {shown(text, 40)} has {len(text)} characters, expected {LONGEST_NAME} or fewer"
            )


def _texts(where: str, name: str, texts: Iterable[str]) -> None:
    for text in texts:
        if len(text) > LONGEST_TEXT:
            raise UserError(
                f"{where}: {name} {shown(text, 40)} has {len(text)} characters, expected {LONGEST_TEXT} or fewer"
            )
