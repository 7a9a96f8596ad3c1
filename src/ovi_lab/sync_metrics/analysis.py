"""What a metric sees of a fault: rank correlation with its size, the smallest size seen, order of sets, contradictions.

`worse` values are turned so that the larger one is the worse one. Shapes: K sizes with the size 0 first, N clips, R
resamples, P pairs of sets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from ovi_eval.stats.differences import sign_flip_test
from ovi_eval.stats.intervals import ENDS, Interval, bootstrap_interval, generator
from ovi_lab.sync_metrics.measuring import FaultValues

Array = NDArray[np.float64]

SEED = 17
SET, RESAMPLES, FLIPS = 32, 2000, 2000
"""Clips of a set that is ranked, how many sets are drawn, and how many sign flips a test makes."""
SURE, ALPHA = 0.95, 0.01
"""The share of sets that must be ranked rightly for a fault to be seen, and the p value of a pair's order."""
LEAST_MS = 5.0
"""How far apart the truth of two sets must be for their order to be asked for."""


@dataclass(frozen=True)
class Sensitivity:
    """How a metric answers to a fault.

    `rho_N`: each clip's rank correlation of size and value, 0 where its values are all equal; `rho` their mean, with an
    interval over clips; `rho_of_means` the rank correlation of size and the set's mean, with its interval. 1: worse
    with every size. `paired` [K-1], `independent` [K-1]: of pairs of sets of 32 clips the share in which the faulty one
    has the worse mean, of the same clips and of two draws of clips; a tie counts half. `better_again`: steps from one
    size to the next, as places, where the metric is surely better after than before. `coverage`: the least share of
    clips with a value.
    """

    measured: FaultValues
    rho_N: Array
    rho: float
    interval: Interval | None
    rho_of_means: float
    interval_of_means: tuple[float, float]
    paired: Array
    independent: Array
    better_again: tuple[int, ...]
    coverage: float

    def seen(self, shares: Array) -> list[float]:
        """The sizes that are seen surely."""
        return [size for size, share in zip(self.measured.sizes, shares, strict=True) if share >= SURE]

    def wrong(self) -> list[float]:
        """The sizes at which the faulty set is surely ranked above the clean one, of independent sets."""
        found = zip(self.measured.sizes, self.independent, strict=True)
        return [size for size, share in found if share <= 1 - SURE]

    def extent(self, floor: Sensitivity) -> float | None:
        """How far the largest size moves the mean, as a share of how far the largest size of `floor` does.

        None where that one is not seen.
        """
        if floor.independent[-1] < SURE:
            return None
        moved, whole = (np.nanmean(a.measured.worse[[0, -1]], axis=1) for a in (self, floor))
        return float((moved[1] - moved[0]) / (whole[1] - whole[0]))

    @property
    def blind(self) -> bool:
        """No size is seen, with independent sets."""
        return not self.seen(self.independent)


def sensitivity(measured: FaultValues) -> Sensitivity:
    """All of it. Random draws depend on the world, metric and fault alone."""
    worse_KN = measured.worse
    names = (measured.world, measured.judge.name, measured.fault.name)
    rho_N = np.array([_rho(column) for column in worse_KN.T])
    paired, independent = _shares(worse_KN, generator(SEED, *names, "sets"))
    rho_of_means, ends = _rho_of_means(worse_KN, generator(SEED, *names, "means"))
    return Sensitivity(
        measured,
        rho_N,
        float(np.nanmean(rho_N)),
        bootstrap_interval(rho_N, generator(SEED, *names, "rho")),
        rho_of_means,
        ends,
        paired,
        independent,
        tuple(_better_again(worse_KN, generator(SEED, *names, "steps"))),
        float((~np.isnan(worse_KN)).mean(axis=1).min()),
    )


def _rho(worse_K: Array) -> float:
    """Spearman's correlation of one clip's values with the order of sizes; NaN with fewer than two values."""
    there_K = ~np.isnan(worse_K)
    own = worse_K[there_K]
    if own.size < 2:
        return float("nan")
    if np.ptp(own) == 0:
        return 0.0
    return float(stats.spearmanr(np.flatnonzero(there_K), own).statistic)


def _rho_of_means(worse_KN: Array, rng: np.random.Generator) -> tuple[float, tuple[float, float]]:
    """Spearman's correlation of the set's mean with the order of sizes, and its percentile interval over clips."""
    n = worse_KN.shape[1]
    drawn_RN = rng.integers(0, n, size=(RESAMPLES, n))
    own_1K = np.nanmean(worse_KN, axis=1)[None]
    drawn_RK = np.array([np.nanmean(row_N[drawn_RN], axis=1) for row_N in worse_KN]).T
    low, high = np.quantile(_rhos_with_order(drawn_RK), ENDS)
    return float(_rhos_with_order(own_1K)[0]), (float(low), float(high))


def _rhos_with_order(means_RK: Array) -> Array:
    """Spearman's correlation of each row with the order of its values, 0 for a row of equal ones: [R]."""
    ranks_RK = stats.rankdata(means_RK.round(12), axis=1)
    away_RK = ranks_RK - ranks_RK.mean(axis=1, keepdims=True)
    order_K = np.arange(means_RK.shape[1]) - (means_RK.shape[1] - 1) / 2
    size_R = np.sqrt((away_RK**2).sum(axis=1) * (order_K**2).sum())
    return np.asarray(np.where(size_R > 0, away_RK @ order_K / np.where(size_R > 0, size_R, 1), 0.0))


def _shares(worse_KN: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    """Of pairs of drawn sets the share in which each size has the worse mean than size 0, paired and independent."""
    n = worse_KN.shape[1]
    faulty_RN, clean_RN = rng.integers(0, n, size=(2, RESAMPLES, SET))

    def means(places_RN: NDArray[np.int64], rows_KN: Array) -> Array:
        drawn_KRN = rows_KN[:, places_RN]
        held_KR = (~np.isnan(drawn_KRN)).sum(axis=2)
        return np.asarray(np.nansum(drawn_KRN, axis=2) / np.where(held_KR > 0, held_KR, np.nan))

    after_KR = means(faulty_RN, worse_KN[1:])
    alone_R, other_R = means(faulty_RN, worse_KN[:1])[0], means(clean_RN, worse_KN[:1])[0]
    # the same clips: only those that have a value both times
    both_KN = worse_KN[1:] - worse_KN[:1]
    return _ranked(means(faulty_RN, both_KN), np.zeros_like(alone_R)), _ranked(after_KR, other_R)


def _ranked(after_KR: Array, before_R: Array) -> Array:
    """The share of resamples in which the first is the larger; a tie, and a set without a value, counts half."""
    # Sums of equal numbers in another order may differ in their last digits.
    close_KR = np.isclose(after_KR, before_R, rtol=1e-9, atol=1e-12) | np.isnan(after_KR - before_R)
    return np.asarray(np.where(close_KR, 0.5, after_KR > before_R).mean(axis=1))


def _better_again(worse_KN: Array, rng: np.random.Generator) -> list[int]:
    """Steps (0: from the clean set to the first size) that surely lower the mean of what should rise."""
    found = []
    for step, (before_N, after_N) in enumerate(pairwise(worse_KN)):
        d_N = (after_N - before_N)[~np.isnan(after_N - before_N)]
        if (
            d_N.size
            and d_N.mean() < 0
            and (p := sign_flip_test(d_N, rng, flips=FLIPS).p) is not None
            and p < ALPHA
        ):
            found.append(step)
    return found


@dataclass(frozen=True)
class OrderedSets:
    """Sets with moved events (late, early, jitter, tempo) and the clean one, ordered by one metric.

    `pairs` [P]: of two places in `names` each, of sets whose truth differs; the first one's events are nearer to where
    they belong. `order_P`: 1 where the metric surely ranks them so, -1 where surely the other way, 0 else.
    `share`: of all pairs those whose means are in the truth's order, ties half; `by_seed` the same of
    each seed's clips.
    """

    judge: str
    names: tuple[str, ...]
    pairs: tuple[tuple[int, int], ...]
    order_P: NDArray[np.int64]
    share: float
    by_seed: dict[int, float]


def ordered_sets(of_judge: Sequence[FaultValues], seeds: Sequence[int]) -> OrderedSets | None:
    """The order that one metric gives the timing faults of one world; None where there are fewer than two such sets.

    `seeds` [N]: that of each clip.
    """
    timing = [m for m in of_judge if m.fault.timing]
    if not timing:
        return None
    first = timing[0]
    names, rows, truth = ["clean"], [first.worse[0]], [0.0]
    for m in timing:
        names += [f"{m.fault.name} {size:g} {m.fault.unit}" for size in m.sizes]
        rows += list(m.worse[1:])
        truth += m.moved_ms[1:].tolist()
    rng = generator(SEED, first.world, first.judge.name, "order")
    pairs, order = [], []
    for a, b in combinations(np.argsort(truth, kind="stable").tolist(), 2):
        if truth[b] - truth[a] < LEAST_MS:
            continue
        d_N = (rows[b] - rows[a])[~np.isnan(rows[b] - rows[a])]
        p = sign_flip_test(d_N, rng, flips=FLIPS).p if d_N.size else None
        pairs.append((a, b))
        order.append(int(np.sign(d_N.mean())) if p is not None and p < ALPHA else 0)
    if not pairs:
        return None
    of_seed = np.asarray(seeds)
    return OrderedSets(
        first.judge.name,
        tuple(names),
        tuple(pairs),
        np.array(order),
        _in_order(rows, pairs),
        {
            int(seed): _in_order([row[of_seed == seed] for row in rows], pairs)
            for seed in dict.fromkeys(seeds)
        },
    )


def _in_order(rows: Sequence[Array], pairs: Sequence[tuple[int, int]]) -> float:
    means = [float(np.nanmean(row)) if not np.isnan(row).all() else float("nan") for row in rows]
    found = [
        0.5
        if np.isclose(means[a], means[b], rtol=1e-9) or np.isnan(means[a] - means[b])
        else float(means[b] > means[a])
        for a, b in pairs
    ]
    return float(np.mean(found))


@dataclass(frozen=True)
class Contradiction:
    """Pairs of sets that `right` ranks surely in the truth's order, and `wrong` surely the other way."""

    right: str
    wrong: str
    pairs: tuple[tuple[str, str], ...]
    of: int


def contradictions(orders: Sequence[OrderedSets]) -> list[Contradiction]:
    """Every two metrics of one world that contradict each other, those with the most pairs first."""
    found = []
    for right in orders:
        for wrong in orders:
            places = np.flatnonzero((right.order_P == 1) & (wrong.order_P == -1))
            if len(places):
                named = tuple(
                    (right.names[right.pairs[p][0]], right.names[right.pairs[p][1]]) for p in places
                )
                found.append(Contradiction(right.judge, wrong.judge, named, len(right.pairs)))
    return sorted(found, key=lambda c: -len(c.pairs))
