"""Differences of two models: paired over clips or over seeds, with an interval, a test, and Holm's correction for many.

Shapes: S seeds, N clips, K values. NaN in an array is a value that is missing. All randomness is seeded.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from ovi_eval.stats.intervals import Array, Interval, Seed, chunks, crossed_bootstrap_interval, t_interval

FLIPS = 20_000
EXACT_FLIPS = 15


@dataclass(frozen=True)
class Test:
    """`p` is two-sided and None where the data are too few; `name` says which test, `n` the number of pairs."""

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
    """Seeds in common that the difference is averaged over; 0: none, each side is averaged over its own."""
    n_clips: int | None
    """Clips in common, None for a metric without values per clip."""
    by_seed: Mapping[Seed, float]


def sign_flip_test(
    differences: Sequence[float] | Array, rng: np.random.Generator, *, flips: int = FLIPS
) -> Test:
    """Paired permutation test of a mean difference of zero: under it each difference may have either sign.

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
    for rows in chunks(flips, k):
        signs = 1.0 - 2.0 * rng.integers(0, 2, size=(rows, k))
        extreme += int(np.sum(np.abs(signs @ moving) >= bound))
    return Test((1 + extreme) / (1 + flips), f"sign-flip permutation over clips, {flips} flips", n)


def paired_t_test(differences: Sequence[float] | Array) -> Test:
    """Student's paired t over seeds; p is None with fewer than two, as nothing then says how much seeds vary."""
    d = np.asarray(differences, dtype=np.float64)
    name = "paired t over seeds"
    if d.size < 2:
        return Test(None, name, int(d.size))
    sd = d.std(ddof=1)
    if sd == 0:
        return Test(1.0 if d.mean() == 0 else 0.0, name, int(d.size))
    t = d.mean() / (sd / math.sqrt(d.size))
    return Test(float(2 * special.stdtr(d.size - 1, -abs(t))), name, int(d.size))


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's step-down adjustment (1979): holds the chance of any false finding. None stays and is not counted."""
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
    """Difference of two independent means of unequal variance (Welch 1947), degrees of freedom by Satterthwaite."""
    value = float(a.mean() - b.mean())
    parts = np.array([a.var(ddof=1) / a.size, b.var(ddof=1) / b.size])
    error = math.sqrt(parts.sum())
    if error == 0:
        p, half = (1.0 if value == 0 else 0.0), 0.0
    else:
        freedom = float(parts.sum() ** 2 / (parts**2 / np.array([a.size - 1, b.size - 1])).sum())
        p = float(2 * special.stdtr(freedom, -abs(value) / error))
        half = float(special.stdtrit(freedom, 0.975) * error)
    n = int(a.size + b.size)
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
        p = float(2 * special.ndtr(-abs(value) / towards_zero * special.ndtri(0.975)))
    n = min(of_a.n, of_b.n)
    method = "of the two runs' own intervals, taken as independent"
    interval = Interval(value - below, value + above, method, n)
    return Difference(value, interval, Test(p, "z of the two runs' own intervals", n), 0, None, {})


@dataclass(frozen=True)
class Pairs:
    """Values per clip of two sides: `seeds` in common (none: each side is its mean over its own seeds), `ids` that
    some seed has on both sides, `a_SN` and `b_SN` with NaN where either side has no value.
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
    none = (np.nan, np.nan)
    pairs = [[(of_a[c], of_b[c]) if c in of_a and c in of_b else none for c in ids] for of_a, of_b in sides]
    a_SN, b_SN = np.moveaxis(np.array(pairs), 2, 0)
    if units is None:
        return Pairs(seeds, ids, a_SN, b_SN)
    members: dict[Hashable, list[int]] = {}
    for place, clip in enumerate(ids):
        members.setdefault(units.get(clip, clip), []).append(place)
    a_SU, b_SU = (
        np.stack([_mean_of(x_SN[:, own]) for own in members.values()], axis=1) for x_SN in (a_SN, b_SN)
    )
    return Pairs(seeds, [ids[own[0]] for own in members.values()], a_SU, b_SU)


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
