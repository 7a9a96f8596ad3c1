"""How sure a Fréchet distance is: small-sample bias, interval, warnings; and its extrapolation to infinite sets.

A Fréchet distance of N clips is too large by about c / N, because covariances fitted to few clips differ by
chance even where both sets come from one source (Chong and Forsyth 2020, "Effectively unbiased FID and
Inception Score"). Every draw here has a named seed. Distances are those of `ovi_eval.stats.frechet`, in float64.

Shapes: N and M rows of features (a clip may have several), C clips, D features.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy import special
from torch import Tensor

from ovi_eval.errors import UserError
from ovi_eval.stats.frechet import Gaussian, between, checked_features, gaussian_of, weighted_gaussian
from ovi_eval.stats.intervals import Interval

HALVINGS = 4
RESAMPLES = 200
FEWEST_RESAMPLES, MOST_OPERATIONS = 40, 2e12
PART = 0.8
"""Share of the clips in each resample of the interval's bootstrap."""
STEPS, FEWEST = 25, 500
"""Sizes that the line of FAD-infinity is fitted to, and the smallest of them, as fadtk has them."""


class _Clips:
    """Rows in float64 and the clip of each: a clip is drawn with all its rows or not at all."""

    def __init__(self, features_ND: Tensor, clips_N: Tensor | None, which: str) -> None:
        self.x_ND = checked_features(features_ND, which)
        if clips_N is None:
            clips_N = torch.arange(len(self.x_ND))
        if clips_N.shape != (len(self.x_ND),):
            raise UserError(
                f"the {which} set has {len(self.x_ND)} rows of features and clips of shape "
                f"{list(clips_N.shape)}; name one clip for each row"
            )
        self.clip_N = torch.unique(clips_N.cpu(), return_inverse=True)[1]
        self.count = int(self.clip_N.max()) + 1

    def drawn(self, clips: np.ndarray) -> Gaussian | None:
        """The Gaussian of the clips named, a clip named twice counting twice; None for fewer than two rows."""
        times_C = torch.from_numpy(np.bincount(clips, minlength=self.count).astype(np.float64))
        times_N = times_C[self.clip_N]
        return weighted_gaussian(self.x_ND, times_N) if float(times_N.sum()) >= 2 else None

    @property
    def resample_size(self) -> int:
        """Number of clips in a resample."""
        return max(2, int(PART * self.count))

    def resampled(self, generator: np.random.Generator) -> Gaussian | None:
        """The Gaussian of a part of the clips, drawn without replacement."""
        return self.drawn(generator.permutation(self.count)[: self.resample_size])

    def halved(self, generator: np.random.Generator) -> tuple[Gaussian | None, Gaussian | None]:
        """The Gaussians of two random halves; an odd clip is in neither."""
        order, half = generator.permutation(self.count), self.count // 2
        return self.drawn(order[:half]), self.drawn(order[half : 2 * half])


def small_sample_bias(
    scored_ND: Tensor,
    reference_MD: Tensor,
    generator: np.random.Generator,
    *,
    scored_clips_N: Tensor | None = None,
    reference_clips_M: Tensor | None = None,
) -> float | None:
    """What the Fréchet distance of these sets is too large by because they are no larger; None under 4 clips.

    Where the bias is c / N, that of half the clips is 2 c / N, so the mean distance of random halves less the
    distance of all is the bias. With fewer rows than features the bias falls more slowly than 1 / N, and this
    is then too low. `*_clips` names each row's clip (None: every row is a clip of its own). Raises UserError
    as `frechet_distance` does.
    """
    scored = _Clips(scored_ND, scored_clips_N, "scored")
    reference = _Clips(reference_MD, reference_clips_M, "reference")
    if min(scored.count, reference.count) < 4:
        return None
    of_all = between(weighted_gaussian(scored.x_ND), weighted_gaussian(reference.x_ND))
    halves = [
        between(x, y)
        for _ in range(HALVINGS)
        for x, y in zip(scored.halved(generator), reference.halved(generator), strict=True)
        if x is not None and y is not None
    ]
    return float(np.mean(halves)) - of_all if halves else None


def frechet_interval(
    scored_ND: Tensor,
    scored_clips_N: Tensor | None,
    reference_MD: Tensor,
    reference_clips_M: Tensor | None,
    generator: np.random.Generator,
    resamples: int = RESAMPLES,
    progress: Callable[[int], object] | None = None,
) -> Interval | None:
    """How far the distance would move with other clips of the same kind: value ± 1.96 bootstrap standard errors.

    The bootstrap draws m = 80 % of either set's clips without replacement (Politis and Romano 1994), each clip
    with all its rows, and takes √(m / (n - m)) of the distances' spread. Drawn with replacement, clips would
    occur twice, which no new set does: with fewer rows than features that gave twice the true standard error,
    this at most 1.6 times, and with many rows both give the true one. Percentiles are not used, as resampled
    distances are larger than the value by the bias of fewer clips. The interval ends at 0 and leaves the bias
    at this N in. None where a set has fewer than three clips. `progress` is called with the number of resamples done.
    Raises UserError as `frechet_distance` does.
    """
    scored = _Clips(scored_ND, scored_clips_N, "scored")
    reference = _Clips(reference_MD, reference_clips_M, "reference")
    if min(scored.count, reference.count) < 3:
        return None
    found = []
    for done in range(1, resamples + 1):
        x, y = scored.resampled(generator), reference.resampled(generator)
        if x is not None and y is not None:
            found.append(between(x, y))
        if progress:
            progress(done)
    if len(found) < 2:
        return None
    value = between(weighted_gaussian(scored.x_ND), weighted_gaussian(reference.x_ND))
    sizes = [(clips.resample_size, clips.count) for clips in (scored, reference)]
    scale = max(math.sqrt(size / (count - size)) for size, count in sizes)
    half = float(special.ndtri(0.975) * scale * np.std(found, ddof=1))
    method = f"bootstrap standard error over clips, {len(found)} resamples"
    return Interval(max(value - half, 0.0), value + half, method, scored.count)


def affordable(resamples: int, rows: int, dimension: int) -> int:
    """Fewer resamples where each is large: about a minute of one core, and never under 40 of those requested.

    `rows`: of both sets together. 40 resamples know a standard error within 11 %.
    """
    rank = min(rows, dimension)
    operations = 2 * rows * rank * dimension + 10 * rank**3
    return min(resamples, max(FEWEST_RESAMPLES, int(MOST_OPERATIONS / operations)))


def frechet_warnings(rows: int, dimension: int, which: str = "scored") -> tuple[str, ...]:
    """What a reader of a Fréchet distance must know: one sentence where a set has fewer rows than features."""
    if rows >= dimension:
        return ()
    return (
        f"{rows} rows of {dimension} features in the {which} set: fewer rows than features, so the distance is "
        "mostly small-sample bias and compares only with others of as many",
    )


@dataclass(frozen=True)
class Extrapolated:
    """A Fréchet distance at infinitely many rows: the line `value` + `slope` / n fitted to `points` (n, distance).

    `r2` is the share of the points' variance that the line explains.
    """

    value: float
    slope: float
    r2: float
    points: tuple[tuple[int, float], ...]


def frechet_infinity(
    scored_ND: Tensor, reference_MD: Tensor, *, seed: int = 0, fewest: int = FEWEST
) -> Extrapolated:
    """FAD-infinity as fadtk defines it (Gui et al. 2024): distances of 25 samples, extrapolated over 1 / n.

    Sizes go evenly from `fewest` to N, cut to whole numbers; rows of the scored set are drawn with replacement
    by numpy's `RandomState(seed).choice`; the reference stays whole. Being drawn with replacement, they approach
    the N rows as they are: the bias of N itself is not taken off. Raises UserError where the scored set has
    no more than `fewest` rows, and as `frechet_distance` does.
    """
    x_ND = checked_features(scored_ND, "scored")
    if len(x_ND) <= fewest:
        raise UserError(
            f"an extrapolated Fréchet distance needs more than {fewest} rows of features, got {len(x_ND)}; "
            "score more clips"
        )
    reference = gaussian_of(reference_MD, "reference")
    rng = np.random.RandomState(seed)
    points = []
    for size in np.linspace(fewest, len(x_ND), STEPS).astype(int).tolist():
        times_N = np.bincount(rng.choice(len(x_ND), size=size, replace=True), minlength=len(x_ND))
        drawn = weighted_gaussian(x_ND, torch.from_numpy(times_N.astype(np.float64)))
        points.append((size, between(drawn, reference)))
    return line_to_infinity(points)


def line_to_infinity(points: list[tuple[int, float]]) -> Extrapolated:
    """The least-squares line through distances over 1 / n, at 1 / n = 0. Raises UserError for fewer than two n."""
    size_P, distance_P = np.array(points, dtype=np.float64).reshape(-1, 2).T
    if len(np.unique(size_P)) < 2:
        raise UserError(f"a line needs distances at two sizes or more, got {sorted(set(size_P.tolist()))}")
    across_P = 1 / size_P - (1 / size_P).mean()
    slope = float((across_P * distance_P).sum() / (across_P**2).sum())
    value = float(distance_P.mean() - slope * (1 / size_P).mean())
    total = float(((distance_P - distance_P.mean()) ** 2).sum())
    residual = float(((distance_P - value - slope / size_P) ** 2).sum())
    r2 = 1 - residual / total if total > 0 else math.nan
    return Extrapolated(value, slope, r2, tuple(points))
