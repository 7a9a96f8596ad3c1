"""Uncertainty of scores: intervals over seeds and over clips. Tests of differences are in `differences`.

Two things vary when a model is trained and scored again: the training seed and the clips it is asked for. A
mean over seeds gets Student's t interval; a mean over clips a bootstrap interval; a difference that has
both is resampled in both at once, because the same clips return under every seed (Owen 2007, "The
pigeonhole bootstrap").

Shapes: S seeds, N clips, R resamples. NaN in an array is a value that is missing. All randomness is seeded.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from ovi_eval.errors import UserError

Array = NDArray[np.float64]
# None is the key of a run without a seed: another team's model, a reference row.
Seed = int | None
# All resampling is seeded by this and by the names of what is resampled.
SEED = 20251001
RESAMPLES = 10_000
_CHUNK = 4_000_000


@dataclass(frozen=True)
class Interval:
    """`method` names how it was had, `n` what it rests on (seeds or clips, as the method says)."""

    low: float
    high: float
    method: str
    n: int
    level: float = 0.95


def generator(seed: int, *names: object) -> np.random.Generator:
    """A generator of its own for every named quantity, so that adding a metric changes no other number."""
    return np.random.default_rng([seed, *(zlib.crc32(str(name).encode()) for name in names)])


def t_interval(
    values: Sequence[float] | Array,
    level: float = 0.95,
    within: tuple[float, float] = (-math.inf, math.inf),
) -> Interval | None:
    """mean ± t_{n-1} sd / sqrt(n); None with fewer than two values.

    `within` are ends that the mean cannot pass: the interval is cut there, and its method says so. The true mean
    lies within, so cutting takes nothing from the coverage.
    """
    x = np.asarray(values, dtype=np.float64)
    if x.size < 2:
        return None
    half = float(stats.t.ppf(0.5 + level / 2, x.size - 1) * x.std(ddof=1) / math.sqrt(x.size))
    mean = float(x.mean())
    full = (mean - half, mean + half)
    kept = (max(full[0], within[0]), min(full[1], within[1]))
    cut = [f"{end:g}" for end, own in zip(kept, full, strict=True) if end != own]
    method = "t over seeds" + (f", cut at {' and '.join(cut)}" if cut else "")
    return Interval(kept[0], kept[1], method, int(x.size), level)


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
    there_N = ~np.isnan(x_N)
    rng = generator(seed, key, "mean")
    if units is None:
        return bootstrap_interval(np.sort(x_N[there_N]), rng)
    kept = [unit for unit, there in zip(units, there_N, strict=True) if there]
    order = np.argsort(x_N[there_N], kind="stable")
    return bootstrap_interval(x_N[there_N][order], rng, units=[kept[i] for i in order])


def bootstrap_interval(
    values: Sequence[float] | Array,
    rng: np.random.Generator,
    *,
    level: float = 0.95,
    method: str = "bca",
    resamples: int = RESAMPLES,
    units: Sequence[Hashable] | None = None,
) -> Interval | None:
    """Bootstrap interval of a mean over clips; None with fewer than two values.

    `method`: "percentile", or "bca" (bias-corrected and accelerated, Efron 1987), which also holds for
    skewed values. `units` names for each value what it is a measurement of: values of one unit, as of copies of one
    clip, are drawn together (the cluster bootstrap), and the interval's n counts units.
    """
    x_N = np.asarray(values, dtype=np.float64)
    if method not in ("percentile", "bca"):
        raise UserError(f"bootstrap method {method!r} is unknown; choose percentile or bca")
    sums_N, sizes_N = (x_N, np.ones_like(x_N)) if units is None else _gathered(x_N, units)
    n = int(sums_N.size)
    if n < 2:
        return None
    parts = []
    for rows in chunks(resamples, n):
        counts_RN = _counts(rng, rows, n)
        parts.append(counts_RN @ sums_N / (counts_RN @ sizes_N))
    means_R = np.concatenate(parts)
    low, high = (1 - level) / 2, (1 + level) / 2
    if method == "bca" and np.ptp(x_N) > 0:
        low, high = _bca_levels(sums_N, sizes_N, means_R, (low, high))
    bounds = np.quantile(means_R, [low, high])
    over = "clips" if n == x_N.size else "distinct clips"
    return Interval(float(bounds[0]), float(bounds[1]), f"{method} bootstrap over {over}", n, level)


def _gathered(x_N: Array, units: Sequence[Hashable]) -> tuple[Array, Array]:
    """Of each unit, in the order in which they come, the sum of its values and how many it has."""
    place: dict[Hashable, int] = {}
    index_N = np.array([place.setdefault(unit, len(place)) for unit in units], dtype=np.int64)
    sums = np.bincount(index_N, weights=x_N, minlength=len(place)).astype(np.float64)
    return sums, np.bincount(index_N, minlength=len(place)).astype(np.float64)


def _bca_levels(
    sums_N: Array, sizes_N: Array, means_R: Array, levels: tuple[float, float]
) -> tuple[float, float]:
    """Moves the two percentiles by the bias z0 and the acceleration a, which the jackknife over units gives; for
    single values that is skewness / 6.
    """
    mean = sums_N.sum() / sizes_N.sum()
    # Ties count half: means of yes/no values often equal the mean itself.
    below = np.mean(means_R < mean) + 0.5 * np.mean(means_R == mean)
    z0 = stats.norm.ppf(np.clip(below, 1e-9, 1 - 1e-9))
    if sizes_N.max() == 1:
        centred_N = sums_N - mean
    else:
        without_N = (sums_N.sum() - sums_N) / (sizes_N.sum() - sizes_N)
        centred_N = without_N.mean() - without_N
    spread = float((centred_N**2).sum())
    a = float((centred_N**3).sum() / (6.0 * spread**1.5)) if spread > 0 else 0.0
    z = stats.norm.ppf(levels)
    moved = stats.norm.cdf(z0 + (z0 + z) / (1 - a * (z0 + z)))
    return float(moved[0]), float(moved[1])


def crossed_bootstrap_interval(
    values_SN: Array,
    rng: np.random.Generator,
    *,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    units: Sequence[Hashable] | None = None,
) -> Interval | None:
    """Interval of the mean of the seeds' means, seeds and clips resampled at once; None where nothing varies.

    Percentile. With one seed it is the bootstrap over clips. A clip that one seed has not is NaN there. `units` as
    `bootstrap_interval`, one for each of the N clips.
    """
    x_SN = np.asarray(values_SN, dtype=np.float64)
    s = len(x_SN)
    if s == 1:
        there_N = ~np.isnan(x_SN[0])
        kept = None if units is None else [u for u, there in zip(units, there_N, strict=True) if there]
        return bootstrap_interval(x_SN[0][there_N], rng, level=level, resamples=resamples, units=kept)
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
        parts.append(
            ((seeds_RS * means_RS).sum(axis=1) / np.where(drawn_R > 0, drawn_R, np.nan))[drawn_R > 0]
        )
    means_R = np.concatenate(parts)
    if means_R.size == 0:
        return None
    bounds = np.quantile(means_R, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(bounds[0]), float(bounds[1]), f"bootstrap over {s} seeds x clips", n, level)


def chunks(resamples: int, n: int) -> list[int]:
    """Rows at a time, so that memory stays flat in the number of clips."""
    size = max(1, min(resamples, _CHUNK // max(n, 1)))
    return [min(size, resamples - start) for start in range(0, resamples, size)]


def _counts(rng: np.random.Generator, rows: int, n: int) -> Array:
    """[rows, n] how often each of n items is drawn in n draws with replacement."""
    drawn = rng.integers(0, n, size=(rows, n)) + np.arange(rows)[:, None] * n
    return np.bincount(drawn.ravel(), minlength=rows * n).reshape(rows, n).astype(np.float64)
