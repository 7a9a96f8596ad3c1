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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from ovi_eval.errors import EvalError

Array = NDArray[np.float64]
# None is the key of a run without a seed: another team's model, a reference row.
Seed = int | None
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


def t_interval(values: Sequence[float] | Array, level: float = 0.95) -> Interval | None:
    """mean ± t_{n-1} sd / sqrt(n); None with fewer than two values."""
    x = np.asarray(values, dtype=np.float64)
    if x.size < 2:
        return None
    half = float(stats.t.ppf(0.5 + level / 2, x.size - 1) * x.std(ddof=1) / math.sqrt(x.size))
    mean = float(x.mean())
    return Interval(mean - half, mean + half, "t over seeds", int(x.size), level)


def bootstrap_interval(
    values: Sequence[float] | Array,
    rng: np.random.Generator,
    *,
    level: float = 0.95,
    method: str = "bca",
    resamples: int = RESAMPLES,
) -> Interval | None:
    """Bootstrap interval of a mean over clips; None with fewer than two values.

    `method`: "percentile", or "bca" (bias-corrected and accelerated, Efron 1987), which also holds for
    skewed values.
    """
    x_N = np.asarray(values, dtype=np.float64)
    if method not in ("percentile", "bca"):
        raise EvalError(f"bootstrap method {method!r} is unknown; choose percentile or bca")
    n = int(x_N.size)
    if n < 2:
        return None
    means_R = np.concatenate([_counts(rng, rows, n) @ x_N / n for rows in _chunks(resamples, n)])
    low, high = (1 - level) / 2, (1 + level) / 2
    if method == "bca" and np.ptp(x_N) > 0:
        low, high = _bca_levels(x_N, means_R, (low, high))
    bounds = np.quantile(means_R, [low, high])
    return Interval(float(bounds[0]), float(bounds[1]), f"{method} bootstrap over clips", n, level)


def _bca_levels(x_N: Array, means_R: Array, levels: tuple[float, float]) -> tuple[float, float]:
    """Moves the two percentiles by the bias z0 and the acceleration a; for a mean the jackknife gives
    skewness / 6.
    """
    mean = x_N.mean()
    # Ties count half: means of yes/no values often equal the mean itself.
    below = np.mean(means_R < mean) + 0.5 * np.mean(means_R == mean)
    z0 = stats.norm.ppf(np.clip(below, 1e-9, 1 - 1e-9))
    centred_N = x_N - mean
    a = float((centred_N**3).sum() / (6.0 * (centred_N**2).sum() ** 1.5))
    z = stats.norm.ppf(levels)
    moved = stats.norm.cdf(z0 + (z0 + z) / (1 - a * (z0 + z)))
    return float(moved[0]), float(moved[1])


def crossed_bootstrap_interval(
    values_SN: Array, rng: np.random.Generator, *, level: float = 0.95, resamples: int = RESAMPLES
) -> Interval | None:
    """Interval of the mean of the seeds' means, seeds and clips resampled at once; None where nothing varies.

    Percentile. With one seed it is the bootstrap over clips. A clip that one seed has not is NaN there.
    """
    x_SN = np.asarray(values_SN, dtype=np.float64)
    s, n = x_SN.shape
    if n < 2:
        return None
    if s == 1:
        return bootstrap_interval(x_SN[0][~np.isnan(x_SN[0])], rng, level=level, resamples=resamples)
    held_SN = ~np.isnan(x_SN)
    filled_SN = np.where(held_SN, x_SN, 0.0)
    parts = []
    for rows in _chunks(resamples, n):
        clips_RN, seeds_RS = _counts(rng, rows, n), _counts(rng, rows, s)
        weight_RS = clips_RN @ held_SN.T.astype(np.float64)
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
    """A - B for a value a run has only once (a Fréchet distance, a loss): paired over the seeds in common."""
    common = [seed for seed in a if seed in b]
    by_seed = {seed: a[seed] - b[seed] for seed in common}
    if not common:
        value = float(np.mean(list(a.values())) - np.mean(list(b.values())))
        return Difference(value, None, Test(None, "no seeds in common", 0), 0, None, {})
    d = np.array(list(by_seed.values()))
    return Difference(float(d.mean()), t_interval(d), paired_t_test(d), len(common), None, by_seed)


def compare_clips(
    a: Mapping[Seed, Mapping[str, float]],
    b: Mapping[Seed, Mapping[str, float]],
    make_generator: Callable[[str], np.random.Generator],
) -> Difference | None:
    """A - B for a metric with a value per clip, by seed and clip id; None where no clip is in common.

    Each clip's difference is averaged over the seeds in common (where none are, each side is averaged over
    its own seeds), then tested by sign flips over clips: this speaks of other clips of these models. The
    interval resamples seeds and clips at once, and so speaks of other seeds too. `make_generator` gives a
    generator by name.
    """
    common = [seed for seed in a if seed in b]
    common = [seed for seed in common if not a[seed].keys().isdisjoint(b[seed])]
    pairs = [(a[s], b[s]) for s in common] or [(_over_seeds(a), _over_seeds(b))]
    ids = sorted({clip for of_a, of_b in pairs for clip in of_a if clip in of_b})
    if not ids:
        return None
    d_SN = np.array(
        [[of_a[c] - of_b[c] if c in of_a and c in of_b else np.nan for c in ids] for of_a, of_b in pairs]
    )
    per_clip_N = np.nanmean(d_SN, axis=0)
    by_seed = {s: float(np.nanmean(row)) for s, row in zip(common, d_SN, strict=False)}
    return Difference(
        value=float(np.nanmean(d_SN, axis=1).mean()),
        interval=crossed_bootstrap_interval(d_SN, make_generator("interval")),
        test=sign_flip_test(per_clip_N, make_generator("test")),
        n_seeds=len(by_seed),
        n_clips=len(ids),
        by_seed=by_seed,
    )


def _over_seeds(values: Mapping[Seed, Mapping[str, float]]) -> dict[str, float]:
    """Mean of each clip over the seeds that have it."""
    gathered: dict[str, list[float]] = {}
    for of_seed in values.values():
        for clip, value in of_seed.items():
            gathered.setdefault(clip, []).append(value)
    return {clip: float(np.mean(found)) for clip, found in gathered.items()}
