"""Uncertainty of scores: intervals over seeds and clips, paired tests, correction for many comparisons.

Two things vary when a model is trained and scored again: the training seed and the clips it is asked for. A
mean over seeds gets Student's t interval; a mean over clips a bootstrap interval; a difference that has
both is resampled in both at once, because the same clips return under every seed (Owen 2007, "The
pigeonhole bootstrap").

Shapes: S seeds, N clips, R resamples. NaN in an array is a value that is missing. All randomness is seeded.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Hashable, Mapping, Sequence
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
FLIPS = 20_000
EXACT_FLIPS = 15
_CHUNK = 4_000_000


@dataclass(frozen=True)
class Interval:
    """`method` names how it was had, `n` what it rests on (seeds or clips, as the method says)."""

    low: float
    high: float
    method: str
    n: int
    level: float = 0.95


@dataclass(frozen=True)
class Test:
    """`p` is two-sided and None where the data are too few; `name` says which test, `n` how many pairs it
    had.
    """

    p: float | None
    name: str
    n: int


@dataclass(frozen=True)
class Difference:
    """A minus B, on what the two have in common."""

    value: float
    interval: Interval | None
    test: Test
    n_seeds: int
    """Seeds in common that the difference is averaged over (0: none in common, each side averaged over its
    own).
    """
    n_clips: int | None
    """Clips in common, None for a metric without values per clip."""
    by_seed: Mapping[Seed, float]


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
    for rows in _chunks(resamples, n):
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
    for rows in _chunks(resamples, n):
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


def _chunks(resamples: int, n: int) -> list[int]:
    """Rows at a time, so that memory stays flat in the number of clips."""
    size = max(1, min(resamples, _CHUNK // max(n, 1)))
    return [min(size, resamples - start) for start in range(0, resamples, size)]


def _counts(rng: np.random.Generator, rows: int, n: int) -> Array:
    """[rows, n] how often each of n items is drawn in n draws with replacement."""
    drawn = rng.integers(0, n, size=(rows, n)) + np.arange(rows)[:, None] * n
    return np.bincount(drawn.ravel(), minlength=rows * n).reshape(rows, n).astype(np.float64)


def sign_flip_test(
    differences: Sequence[float] | Array, rng: np.random.Generator, *, flips: int = FLIPS
) -> Test:
    """Paired permutation test of a mean difference of zero: under it each clip's difference may have either
    sign.

    Every assignment of signs is enumerated up to 15 differences that are not zero (zeros change nothing);
    beyond, the p value is (1 + as extreme) / (1 + flips), which is never too small (Phipson & Smyth 2010).
    """
    d_N = np.asarray(differences, dtype=np.float64)
    n = int(d_N.size)
    if n == 0:
        return Test(None, "sign-flip permutation over clips", 0)
    moving = d_N[d_N != 0]
    # Sums that are equal in exact arithmetic must count as equal here.
    bound = abs(moving.sum()) - 1e-9 * np.abs(moving).sum()
    k = int(moving.size)
    if k <= EXACT_FLIPS:
        signs = 1.0 - 2.0 * ((np.arange(2**k)[:, None] >> np.arange(k)) & 1)
        p = float(np.mean(np.abs(signs @ moving) >= bound))
        return Test(p, "exact sign-flip permutation over clips", n)
    extreme = 0
    for rows in _chunks(flips, k):
        signs = 1.0 - 2.0 * rng.integers(0, 2, size=(rows, k))
        extreme += int(np.sum(np.abs(signs @ moving) >= bound))
    return Test((1 + extreme) / (1 + flips), f"sign-flip permutation over clips, {flips} flips", n)


def paired_t_test(differences: Sequence[float] | Array) -> Test:
    """Student's paired t over seeds; p is None with fewer than two, as nothing then says how much seeds
    vary.
    """
    d = np.asarray(differences, dtype=np.float64)
    name = "paired t over seeds"
    if d.size < 2:
        return Test(None, name, int(d.size))
    spread = d.std(ddof=1)
    if spread == 0:
        return Test(1.0 if d.mean() == 0 else 0.0, name, int(d.size))
    t = d.mean() / (spread / math.sqrt(d.size))
    return Test(float(2 * stats.t.sf(abs(t), d.size - 1)), name, int(d.size))


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's step-down adjustment (1979): holds the chance of any false finding. None stays None and is not
    counted.
    """
    known = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    reached = 0.0
    for rank, (p, i) in enumerate(known):
        reached = max(reached, min(1.0, (len(known) - rank) * p))
        adjusted[i] = reached
    return adjusted


def compare_seeds(a: Mapping[Seed, float], b: Mapping[Seed, float]) -> Difference:
    """A - B for a value a run has only once (a Fréchet distance, a loss): paired over the seeds in common.

    Where fewer than two seeds are in common but each side has two or more of its own, the sides are taken as
    independent (Welch). With fewer there is a difference and nothing that says how sure it is.
    """
    common = [seed for seed in a if seed in b]
    if len(common) < 2 and len(a) > 1 and len(b) > 1:
        return _welch(np.array(list(a.values())), np.array(list(b.values())))
    by_seed = {seed: a[seed] - b[seed] for seed in common}
    if not common:
        value = float(np.mean(list(a.values())) - np.mean(list(b.values())))
        return Difference(value, None, Test(None, "no seeds in common", 0), 0, None, {})
    d = np.array(list(by_seed.values()))
    return Difference(float(d.mean()), t_interval(d), paired_t_test(d), len(common), None, by_seed)


def _welch(a: Array, b: Array) -> Difference:
    """Difference of two independent means with unequal spread (Welch 1947), degrees of freedom by Satterthwaite."""
    n = int(a.size + b.size)
    value = float(a.mean() - b.mean())
    parts = np.array([a.var(ddof=1) / a.size, b.var(ddof=1) / b.size])
    error = math.sqrt(parts.sum())
    if error == 0:
        p, half = (1.0 if value == 0 else 0.0), 0.0
    else:
        freedom = float(parts.sum() ** 2 / (parts**2 / np.array([a.size - 1, b.size - 1])).sum())
        p = float(2 * stats.t.sf(abs(value) / error, freedom))
        half = float(stats.t.ppf(0.975, freedom) * error)
    interval = Interval(value - half, value + half, "Welch's t over seeds that are not paired", n)
    return Difference(value, interval, Test(p, "Welch's t over seeds", n), 0, None, {})


def compare_intervals(a: float, of_a: Interval, b: float, of_b: Interval) -> Difference | None:
    """A - B of two single values with 95 % intervals, taken as independent: the method of variance estimates
    recovery (Zou & Donner 2008), which keeps lopsided intervals lopsided.

    The p value is that of a normal deviate as far from zero as the interval of the difference says, so that
    p < 0.05 exactly where the interval leaves zero out. None where a value lies outside its own interval, which
    then does not say how far the value may be off.
    """
    if not (of_a.low <= a <= of_a.high and of_b.low <= b <= of_b.high):
        return None
    value = a - b
    below = math.hypot(a - of_a.low, of_b.high - b)
    above = math.hypot(of_a.high - a, b - of_b.low)
    towards_zero = below if value > 0 else above
    if towards_zero == 0:
        p = 1.0 if value == 0 else 0.0
    else:
        p = float(2 * stats.norm.sf(abs(value) / towards_zero * stats.norm.ppf(0.975)))
    n = min(of_a.n, of_b.n)
    interval = Interval(
        value - below, value + above, "of the two runs' own intervals, taken as independent", n
    )
    return Difference(value, interval, Test(p, "z of the two runs' own intervals", n), 0, None, {})


@dataclass(frozen=True)
class Pairs:
    """Values per clip of two sides, side by side: `seeds` in common (none: each side is its mean over its own
    seeds), `ids` that some seed has on both sides, `a_SN` and `b_SN` with NaN where either side has no value.
    """

    seeds: Sequence[Seed]
    ids: Sequence[str]
    a_SN: Array
    b_SN: Array


def paired_clips(
    a: Mapping[Seed, Mapping[str, float]],
    b: Mapping[Seed, Mapping[str, float]],
    units: Mapping[str, Hashable] | None = None,
) -> Pairs | None:
    """The clips that both sides have, by seed and id; None where no clip is in common.

    Clips of one unit, as copies of one clip on both sides, become one with the mean of their values and the first's id.
    """
    seeds = [seed for seed in a if seed in b and not a[seed].keys().isdisjoint(b[seed])]
    sides = [(a[s], b[s]) for s in seeds] or [(_over_seeds(a), _over_seeds(b))]
    ids = sorted({clip for of_a, of_b in sides for clip in of_a if clip in of_b})
    if not ids:
        return None
    both_S = [(of_a, of_b, of_a.keys() & of_b.keys()) for of_a, of_b in sides]
    a_SN = np.array([[of_a[c] if c in both else np.nan for c in ids] for of_a, _, both in both_S])
    b_SN = np.array([[of_b[c] if c in both else np.nan for c in ids] for _, of_b, both in both_S])
    if units is None:
        return Pairs(seeds, ids, a_SN, b_SN)
    members: dict[Hashable, list[int]] = {}
    for place, clip in enumerate(ids):
        members.setdefault(units.get(clip, clip), []).append(place)
    both = [np.stack([_mean_of(x_SN[:, own]) for own in members.values()], axis=1) for x_SN in (a_SN, b_SN)]
    return Pairs(seeds, [ids[own[0]] for own in members.values()], both[0], both[1])


def _mean_of(x_SK: Array) -> Array:
    """Mean over the K values that are there, NaN where none is: [S]."""
    held_SK = ~np.isnan(x_SK)
    count_S = held_SK.sum(axis=1)
    mean_S: Array = np.where(held_SK, x_SK, 0.0).sum(axis=1) / np.where(count_S > 0, count_S, np.nan)
    return mean_S


def compare_clips(
    a: Mapping[Seed, Mapping[str, float]],
    b: Mapping[Seed, Mapping[str, float]],
    make_generator: Callable[[str], np.random.Generator],
    units: Mapping[str, Hashable] | None = None,
) -> Difference | None:
    """A - B for a metric with a value per clip, by seed and clip id; None where no clip is in common.

    Each clip's difference is averaged over the seeds in common (where none are, each side is averaged over
    its own seeds), then tested by sign flips over clips: this speaks of other clips of these models. The
    interval resamples seeds and clips at once, and so speaks of other seeds too. `make_generator` gives a
    generator by name. `units` as `paired_clips`.
    """
    pairs = paired_clips(a, b, units)
    if pairs is None:
        return None
    d_SN = pairs.a_SN - pairs.b_SN
    by_seed = {s: float(np.nanmean(row)) for s, row in zip(pairs.seeds, d_SN, strict=False)}
    return Difference(
        value=float(np.nanmean(d_SN, axis=1).mean()),
        interval=crossed_bootstrap_interval(d_SN, make_generator("interval")),
        test=sign_flip_test(np.nanmean(d_SN, axis=0), make_generator("test")),
        n_seeds=len(by_seed),
        n_clips=len(pairs.ids),
        by_seed=by_seed,
    )


def _over_seeds(values: Mapping[Seed, Mapping[str, float]]) -> dict[str, float]:
    """Mean of each clip over the seeds that have it."""
    gathered: dict[str, list[float]] = {}
    for of_seed in values.values():
        for clip, value in of_seed.items():
            gathered.setdefault(clip, []).append(value)
    return {clip: float(np.mean(found)) for clip, found in gathered.items()}
