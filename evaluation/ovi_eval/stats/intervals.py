"""Uncertainty of scores: intervals over seeds and over clips. Tests of differences are in `differences`.

Two things vary when a model is trained and scored again: the training seed and the clips it samples. A
mean over seeds gets Student's t interval; a mean over clips a bootstrap interval; a difference that has
both is resampled in both at once, because the same clips return under every seed (Owen 2007, "The
pigeonhole bootstrap").

Shapes: S seeds, N clips, R resamples. NaN in an array is a value that is missing. All randomness is seeded.
"""

from __future__ import annotations

import itertools
import math
import zlib
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from ovi_eval.errors import UserError

Array = NDArray[np.float64]
# None is the key of a run without a seed: another team's model, a reference row.
Seed = int | None
# All resampling is seeded by this and by the names of what is resampled.
SEED = 20251001
RESAMPLES = 10_000
ENDS = ((1 - 0.95) / 2, (1 + 0.95) / 2)
"""Quantiles of a 95 % interval."""
_CHUNK = 4_000_000


@dataclass(frozen=True)
class Interval:
    """`method` names how it was computed, `n` what it rests on (seeds or clips, as the method says)."""

    low: float
    high: float
    method: str
    n: int
    level: float = 0.95


def generator(seed: int, *names: object) -> np.random.Generator:
    """A generator of its own for every named quantity, so that adding a metric changes no other number."""
    return np.random.default_rng([seed, *(zlib.crc32(str(name).encode()) for name in names)])


def t_interval(
    values: Sequence[float] | Array, within: tuple[float, float] = (-math.inf, math.inf)
) -> Interval | None:
    """95 % interval mean ± t_{n-1} sd / sqrt(n); None with fewer than two values.

    `within` are ends that the mean cannot pass: the interval is cut there, and its method says so. The true mean
    lies within, so cutting takes nothing from the coverage.
    """
    x = np.asarray(values, dtype=np.float64)
    if x.size < 2:
        return None
    half = float(special.stdtrit(x.size - 1, 0.975) * x.std(ddof=1) / math.sqrt(x.size))
    mean = float(x.mean())
    low, high = max(mean - half, within[0]), min(mean + half, within[1])
    cut = [f"{end:g}" for end, full in ((low, mean - half), (high, mean + half)) if end != full]
    method = "t over seeds" + (f", cut at {' and '.join(cut)}" if cut else "")
    return Interval(low, high, method, int(x.size))


def ends_of(values: Sequence[float] | Array) -> tuple[float, float]:
    """The ends 0 and 1 of a share that clips prove to be ends: every value lies in [0, 1] and some value is that
    end itself. An end no clip reaches may be passed for all one knows (a distance can lie in [0, 1] too).
    """
    x = np.asarray(values, dtype=np.float64)
    if x.size == 0 or x.min() < 0 or x.max() > 1:
        return -math.inf, math.inf
    return (0.0 if x.min() == 0 else -math.inf), (1.0 if x.max() == 1 else math.inf)


def mean_interval(
    values: Sequence[float] | Array, key: str, seed: int = SEED, units: Sequence[Hashable] | None = None
) -> Interval | None:
    """The 95 % BCa bootstrap interval of a mean over the clips of one run; None with fewer than two values.

    `values` may hold NaN for clips without one; their order does not matter, so that one process and several
    give the same numbers. `key` names the value in the results: it and `seed` are the resampling's seed. `units`: as
    `bootstrap_interval`, one for each value.
    """
    x_N = np.asarray(values, dtype=np.float64)
    order = np.argsort(x_N, kind="stable")
    in_order = None if units is None else [units[i] for i in order]
    return bootstrap_interval(x_N[order], generator(seed, key, "mean"), units=in_order)


def bootstrap_interval(
    values: Sequence[float] | Array,
    rng: np.random.Generator,
    *,
    method: str = "bca",
    resamples: int = RESAMPLES,
    units: Sequence[Hashable] | None = None,
) -> Interval | None:
    """95 % bootstrap interval of a mean over clips, without those that are NaN; None with fewer than two values.

    `method`: "percentile", or "bca" (bias-corrected and accelerated, Efron 1987), which also holds for
    skewed values. `units` names for each value what it is a measurement of: values of one unit, as of copies of one
    clip, are drawn together (the cluster bootstrap), and the interval's n counts units.
    """
    if method not in ("percentile", "bca"):
        raise UserError(f"bootstrap method {method!r} is unknown; choose percentile or bca")
    x_N = np.asarray(values, dtype=np.float64)
    there_N = ~np.isnan(x_N)
    x_N = x_N[there_N]
    if units is not None:
        units = list(itertools.compress(units, there_N))
    sums_N, sizes_N = (x_N, np.ones_like(x_N)) if units is None else _gathered(x_N, units)
    n = int(sums_N.size)
    if n < 2:
        return None
    parts = []
    for rows in chunks(resamples, n):
        counts_RN = _counts(rng, rows, n)
        parts.append(counts_RN @ sums_N / (counts_RN @ sizes_N))
    means_R = np.concatenate(parts)
    levels = ENDS
    if method == "bca" and np.ptp(x_N) > 0:
        levels = _bca_levels(sums_N, sizes_N, means_R)
    low, high = np.quantile(means_R, levels)
    over = "clips" if n == x_N.size else "distinct clips"
    return Interval(float(low), float(high), f"{method} bootstrap over {over}", n)


def _gathered(x_N: Array, units: Sequence[Hashable]) -> tuple[Array, Array]:
    """Of each unit, in the order in which they come, the sum of its values and how many it has."""
    place: dict[Hashable, int] = {}
    index_N = np.array([place.setdefault(unit, len(place)) for unit in units], dtype=np.int64)
    sums = np.bincount(index_N, weights=x_N, minlength=len(place)).astype(np.float64)
    return sums, np.bincount(index_N, minlength=len(place)).astype(np.float64)


def _bca_levels(sums_N: Array, sizes_N: Array, means_R: Array) -> tuple[float, float]:
    """The two percentiles moved by the bias z0 and the acceleration a, which the jackknife over units gives; for
    single values that is skewness / 6.
    """
    mean = sums_N.sum() / sizes_N.sum()
    # Ties count half: means of yes/no values often equal the mean itself.
    below = np.mean(means_R < mean) + 0.5 * np.mean(means_R == mean)
    z0 = special.ndtri(np.clip(below, 1e-9, 1 - 1e-9))
    if sizes_N.max() == 1:
        centred_N = sums_N - mean
    else:
        without_N = (sums_N.sum() - sums_N) / (sizes_N.sum() - sizes_N)
        centred_N = without_N.mean() - without_N
    squares = float((centred_N**2).sum())
    a = float((centred_N**3).sum() / (6.0 * squares**1.5)) if squares > 0 else 0.0
    z = special.ndtri(ENDS)
    moved = special.ndtr(z0 + (z0 + z) / (1 - a * (z0 + z)))
    return float(moved[0]), float(moved[1])


def crossed_bootstrap_interval(
    values_SN: Array,
    rng: np.random.Generator,
    *,
    resamples: int = RESAMPLES,
    units: Sequence[Hashable] | None = None,
) -> Interval | None:
    """95 % interval of the mean of the seeds' means, seeds and clips resampled at once; None where nothing varies.

    Percentile. With one seed it is the bootstrap over clips. A clip that one seed has not is NaN there. `units` as
    `bootstrap_interval`, one for each of the N clips.
    """
    x_SN = np.asarray(values_SN, dtype=np.float64)
    s = len(x_SN)
    if s == 1:
        return bootstrap_interval(x_SN[0], rng, resamples=resamples, units=units)
    held_SN = (~np.isnan(x_SN)).astype(np.float64)
    filled_SN = np.where(held_SN > 0, x_SN, 0.0)
    if units is not None:
        held_SN, filled_SN = (np.stack([_gathered(row, units)[0] for row in z]) for z in (held_SN, filled_SN))
    n = held_SN.shape[1]
    if n < 2:
        return None
    parts = []
    for rows in chunks(resamples, n):
        clips_RN, seeds_RS = _counts(rng, rows, n), _counts(rng, rows, s)
        weight_RS = clips_RN @ held_SN.T
        total_RS = clips_RN @ filled_SN.T
        # A seed none of whose clips were drawn has no mean in this resample and is left out of it.
        seeds_RS = np.where(weight_RS > 0, seeds_RS, 0.0)
        means_RS = total_RS / np.where(weight_RS > 0, weight_RS, 1.0)
        drawn_R = seeds_RS.sum(axis=1)
        some_R = drawn_R > 0
        parts.append((seeds_RS * means_RS).sum(axis=1)[some_R] / drawn_R[some_R])
    means_R = np.concatenate(parts)
    if means_R.size == 0:
        return None
    low, high = np.quantile(means_R, ENDS)
    return Interval(float(low), float(high), f"bootstrap over {s} seeds x clips", n)


def chunks(resamples: int, n: int) -> list[int]:
    """Rows at a time, so that memory stays flat in the number of clips."""
    size = max(1, min(resamples, _CHUNK // max(n, 1)))
    return [min(size, resamples - start) for start in range(0, resamples, size)]


def _counts(rng: np.random.Generator, rows: int, n: int) -> Array:
    """[rows, n] how often each of n items is drawn in n draws with replacement."""
    drawn = rng.integers(0, n, size=(rows, n)) + np.arange(rows)[:, None] * n
    return np.bincount(drawn.ravel(), minlength=rows * n).reshape(rows, n).astype(np.float64)
